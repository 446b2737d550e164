"""What is in the images, and what is not."""

from __future__ import annotations

import re
import struct
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from tests.images import builds
from tests.images.archive import opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.images.archive import Archive
    from tests.images.builds import Built

pytestmark = pytest.mark.timeout(1200)

HOME = "/opt/moa"
PACKAGES = {
    "router": {"moa_api", "moa_router"},
    "operator": {"moa_api", "moa_operator"},
    "simulator": {"moa_simulator"},
}
PROGRAMS = {"router": "moa-router", "operator": "moa-operator", "simulator": "moa-sim"}
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}
TOOL = re.compile(r"(pip|gcc|g\+\+|cc|c\+\+|clang|cpp|ld|as|make|cmake|git|hatch|hatchling|wheel|uv)[\d.-]*")
SECRET = re.compile(r"\.git|\.env|\.netrc|\.npmrc|pip\.conf|id_[a-z0-9]+|.*\.(key|pfx|p12)|.*kubeconfig.*")
NOT_COMPILED = re.compile(r"/kubernetes/(aio/)?client/(api|models)/")
# PEP 552: bit 0 says that it is not for a timestamp, and bit 1, not set, that nobody checks the source.
UNCHECKED = 0b01


@pytest.fixture(params=builds.NAMES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


@pytest.fixture(scope="module")
def image(name: str, images: Mapping[str, Built]) -> Iterator[Archive]:
    with opened(images[name].archive) as found:
        yield found


def test_sizes_are_told(name: str, image: Archive) -> None:
    layers = " + ".join(f"{size / 1e6:.1f}" for size in image.layer_bytes)
    print(f"\n{name}: {sum(image.layer_bytes) / 1e6:.0f} MB unpacked, layers {layers}")
    own = [entry.member.size for path, entry in image.entries.items() if path.startswith(HOME)]
    assert 0 < sum(own) <= sum(image.layer_bytes)


def test_it_has_the_name_that_pods_ask_for(name: str, image: Archive) -> None:
    assert builds.reference(name).removeprefix("docker.io/") in {tag.removeprefix("docker.io/") for tag in image.tags}


def test_it_runs_as_nobody_by_number_and_without_a_shell(name: str, image: Archive) -> None:
    assert image.config.user == "65532:65532"
    assert image.config.entrypoint == (f"{HOME}/bin/{PROGRAMS[name]}",)
    assert image.config.command
    first, *_ = image.read(image.config.entrypoint[0]).splitlines()
    assert first.startswith(f"#!{HOME}/bin/python".encode())
    assert image.entries[image.config.entrypoint[0]].member.mode & 0o555 == 0o555
    assert image.config.ports


def test_it_says_what_it_is(image: Archive) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): text for key, text in image.config.labels.items()}
    assert all(labels[key] for key in ("title", "description", "source", "revision", "base.name"))
    assert labels["licenses"] == "Apache-2.0"
    assert builds.reference("x").endswith(f":{labels['version']}")


def test_its_environment_is_python_s_and_nothing_secret(image: Archive) -> None:
    found = dict(text.split("=", 1) for text in image.config.environment)
    assert {key: text for key, text in found.items() if key in ENVIRONMENT} == ENVIRONMENT
    # What is left is the base's: docker's names the Python it has.
    assert found.keys() - ENVIRONMENT.keys() <= {"PATH", "LANG", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256"}
    assert found["PATH"].startswith(f"{HOME}/bin:")


def test_nothing_that_installs_or_compiles_is_left(image: Archive) -> None:
    programs = [path for path in image.files() if PurePosixPath(path).parent.name in {"bin", "sbin"}]
    assert programs
    assert not [path for path in programs if TOOL.fullmatch(PurePosixPath(path).name)]
    assert not [path for path in image.files() if "/ensurepip/" in path or re.search(r"/(pip|hatchling)[/-]", path)]


def test_of_ours_it_has_what_it_runs_and_nothing_else(name: str, image: Archive) -> None:
    ours = {part for path in image.files() for part in PurePosixPath(path).parts if re.fullmatch(r"moa_[a-z]+", part)}
    assert ours == PACKAGES[name]
    programs = {PurePosixPath(path).name for path in image.files() if path.startswith(f"{HOME}/bin/")}
    assert {program for program in programs if not program.startswith("python")} == {PROGRAMS[name]}


def test_no_tests_and_no_secrets_came_along(image: Archive) -> None:
    added = [PurePosixPath(path) for path in image.files() if path.startswith(f"{HOME}/")]
    assert not [path for path in added if {"tests", "test", "conftest.py"} & set(path.parts)]
    everywhere = [PurePosixPath(path) for path in image.files() if not path.startswith(("/usr/lib/", "/usr/share/"))]
    assert not [str(path) for path in everywhere if any(SECRET.fullmatch(part) for part in path.parts)]


def test_nobody_can_write_what_it_runs(image: Archive) -> None:
    members = {path: entry.member for path, entry in image.entries.items() if path.startswith(HOME)}
    assert {member.uid for member in members.values()} == {0}
    assert not [path for path, member in members.items() if not member.issym() and member.mode & 0o6022]


def test_byte_code_is_there_and_never_looks_at_its_source(name: str, image: Archive) -> None:
    compiled = set[str]()
    for path in image.files():
        if path.startswith(HOME) and path.endswith(".pyc"):
            (flags,) = struct.unpack_from("<I", image.read(path), 4)
            assert flags == UNCHECKED, path
            directory, _, module = path.rpartition("/__pycache__/")
            compiled.add(f"{directory}/{module.split('.')[0]}.py")
    sources = {path for path in image.files() if path.startswith(HOME) and path.endswith(".py")}
    left_out = sources - compiled
    assert all(NOT_COMPILED.search(path) for path in left_out)
    assert bool(left_out) == (name == "operator")


def test_the_standard_library_has_byte_code(image: Archive) -> None:
    paths = set(image.files())
    for module in ("asyncio/base_events", "json/decoder", "ssl", "argparse"):
        (source,) = [path for path in paths if re.fullmatch(rf"/usr/.*/python3\.\d+/{module}\.py", path)]
        directory, _, stem = source.removesuffix(".py").rpartition("/")
        assert any(path.startswith(f"{directory}/__pycache__/{stem}.cpython-") for path in paths), source
