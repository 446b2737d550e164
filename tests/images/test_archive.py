"""The reader of archives, on layers that hide and replace what is below them; the other helpers' pure parts."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from tests.images import builds, pip_settings
from tests.images.archive import opened
from tests.images.commands import run
from tests.images.engines import Buildah, Docker
from tests.images.errors import BuildError, CannotBuild

if TYPE_CHECKING:
    from pathlib import Path


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as parts:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            parts.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    lower = tarred({"./etc/a": b"1", "./etc/b": b"1", "opt/c/d": b"1", "opt/c/e": b"1", "opt/cc": b"1"})
    upper = tarred({"etc/.wh.a": b"", "etc/b": b"2", "opt/c/.wh..wh..opq": b"", "opt/c/f": b"2"})
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar", "u.tar"]}]
    config = {"config": {"User": "1:1", "Entrypoint": ["/x"], "Env": ["A=b"]}, "os": "linux"}
    parts = {"manifest.json": json.dumps(manifest).encode(), "c.json": json.dumps(config).encode()}
    path = tmp_path / "x.tar"
    path.write_bytes(tarred({**parts, "l.tar": lower, "u.tar": upper}))
    return path


def test_a_layer_hides_and_replaces_what_is_below(archive: Path) -> None:
    with opened(archive) as image:
        assert set(image.files()) == {"/etc/b", "/opt/c/f", "/opt/cc"}
        assert image.read("/etc/b") == b"2"
        assert image.read("/opt/cc") == b"1"
        assert (image.tags, image.config.user, image.config.entrypoint) == (("x:1",), "1:1", ("/x",))
        assert len(image.layer_bytes) == 2


def test_the_machine_s_pip_settings_are_read_with_the_environment_s_last_word() -> None:
    listing = "global.cert='/a.crt'\nglobal.timeout='9'\n:env:.cert='/b.crt'\nglobal.index-url='http://x/?a=b'"
    assert pip_settings.read(listing) == {"cert": "/b.crt", "index-url": "http://x/?a=b"}
    assert pip_settings.read("") == {}


def test_settings_for_a_build_name_certificates_where_the_build_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, settings = tmp_path / "bundle.pem", tmp_path / "settings"
    bundle.write_text("certificates", encoding="utf-8")
    settings.mkdir()
    monkeypatch.setenv("PIP_CERT", str(bundle))
    pip_settings.write(settings, "/seen")
    assert "cert = /seen/ca.crt\n" in (settings / "pip.conf").read_text(encoding="utf-8")
    assert (settings / "ca.crt").read_text(encoding="utf-8") == "certificates"


def test_a_machine_without_an_engine_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(CannotBuild, match="no docker on PATH; there is no buildah, no mmdebstrap, no unshare on PATH"):
        builds.select(Docker(), Buildah(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CannotBuild, match="need root"):
        builds.select(Docker(), Buildah(tmp_path))


def test_a_command_that_fails_is_reported_with_its_last_words() -> None:
    with pytest.raises(BuildError, match=r"sh -c .* failed \(exit status 3\):\n  no room"):
        run(["sh", "-c", "echo no room >&2; exit 3"], 60.0)
    with pytest.raises(BuildError, match="sleep 60 was not done after 1 s"):
        run(["sleep", "60"], 1.0)
