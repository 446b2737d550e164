"""What can be said of the Dockerfiles, `make images` and the release without building anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.cluster.paths import REPOSITORY
from tests.images import builds

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = 60
PINNED = re.compile(r"docker\.io/library/python:3\.\d+-slim@sha256:[0-9a-f]{64}")

ENGINE = """#!/bin/sh
echo "$0 $*" >> "$CALLS"
case "$1" in info) exit %d;; esac
"""


def dockerfile(name: str) -> str:
    return (REPOSITORY / f"Dockerfile.{name}").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    joined = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", dockerfile(name), flags=re.MULTILINE))
    return [re.sub(r"\s+", " ", line) for line in joined.splitlines() if line]


def version() -> str:
    found = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert isinstance(found, str)
    return found


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines write how they are called; only those that `engine` has made are there to be called."""
    for tool in ("make", "sh", "sed", "git"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "calls"


def engine(calls: Path, name: str, *, answers: bool = True) -> None:
    program = calls.with_name(name)
    program.write_text(ENGINE % (0 if answers else 1), encoding="utf-8")
    program.chmod(0o755)


def make_images(calls: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(calls.with_name("make")), "--no-print-directory", "images", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE, check=False)


def recorded(calls: Path) -> list[str]:
    lines = calls.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(f"{calls.parent}/") for line in lines if not line.endswith(" info")]


def test_images_are_built_by_the_first_engine_that_answers(calls: Path) -> None:
    engine(calls, "docker", answers=False)
    engine(calls, "podman")
    engine(calls, "buildah")
    assert make_images(calls).returncode == 0
    built = recorded(calls)
    assert [line.split()[0] for line in built] == ["podman"] * 3
    for name, line in zip(builds.NAMES, built, strict=True):
        assert line.endswith(f"--file Dockerfile.{name} --tag docker.io/moa-operator/{name}:{version()} .")
        assert f"--build-arg VERSION={version()} " in line
        assert re.search(r"--build-arg REVISION=([0-9a-f]{40}|unknown) ", line)
        assert "BASE=" not in line


def test_without_an_engine_it_says_so(calls: Path) -> None:
    done = make_images(calls)
    assert done.returncode != 0
    assert "neither docker nor podman nor buildah answers here" in done.stderr


def test_images_are_pushed_where_one_says(calls: Path) -> None:
    engine(calls, "docker")
    given = ("PUSH=registry.example/team", "NAME=example/moa", "TAG=7", "IMAGES=router", "BASE=b:1", "BUILD=--squash")
    assert make_images(calls, *given).returncode == 0
    built, tagged, pushed = recorded(calls)
    assert built.startswith("docker build --squash --build-arg BASE=b:1 ")
    assert tagged == "docker tag example/moa/router:7 registry.example/team/router:7"
    assert pushed == "docker push registry.example/team/router:7"


def test_a_build_that_fails_stops_everything(calls: Path) -> None:
    engine(calls, "docker")
    calls.with_name("docker").write_text('#!/bin/sh\necho "$0 $*" >> "$CALLS"\n[ "$1" != build ]\n', encoding="utf-8")
    assert make_images(calls, "PUSH=registry.example/team").returncode != 0
    assert [line.split()[1] for line in recorded(calls)] == ["build"]


def test_every_image_has_the_same_pinned_base() -> None:
    bases = {line for name in builds.NAMES for line in instructions(name) if line.startswith("ARG BASE=")}
    (base,) = bases
    assert PINNED.fullmatch(base.removeprefix("ARG BASE="))


@pytest.mark.parametrize("name", builds.NAMES)
def test_a_recipe_asks_for_nothing_that_older_builders_lack(name: str) -> None:
    lines = instructions(name)
    assert {line for line in lines if line.startswith("FROM ")} == {"FROM ${BASE} AS build", "FROM ${BASE}"}
    copies = [line for line in lines if line.startswith("COPY --")]
    assert copies
    assert all(line.startswith("COPY --from=build ") for line in copies)
    assert not [line for line in lines if "<<" in line or line.startswith(("ADD ", "RUN --"))]
    assert "syntax=" not in dockerfile(name)


@pytest.mark.parametrize("name", builds.NAMES)
def test_everything_is_installed_by_hash_as_a_wheel_or_without_an_index(name: str) -> None:
    installs = re.findall(r"pip(?: --python \S+)? (?:install|wheel) [^&]*", " ".join(instructions(name)))
    assert len(installs) == 4
    for install in installs:
        assert ("--require-hashes" in install and "--only-binary=:all:" in install) or "--no-index" in install
    locked = re.findall(r"-r (requirements/\S+\.txt)", " ".join(installs))
    assert locked == ["requirements/build.txt", f"requirements/{name}.txt"]
    for path in locked:
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        assert re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)
        assert "--hash=sha256:" in text
        assert "index-url" not in text


def test_releases_are_for_both_architectures_with_a_bill_of_materials_and_signed() -> None:
    text = (REPOSITORY / ".github/workflows/release.yaml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    assert set(job["strategy"]["matrix"]["image"]) == set(builds.NAMES)
    (build,) = [step["with"] for step in job["steps"] if "build-push-action" in step.get("uses", "")]
    assert build["platforms"].split(",") == ["linux/amd64", "linux/arm64"]
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"
    assert any("cosign sign" in step.get("run", "") for step in job["steps"])
    assert job["permissions"]["id-token"] == "write"
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
