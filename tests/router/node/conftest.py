"""The processes of the wire tests, and the SDK for Node.js."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.router.wire.conftest import _garage, _simulator, profile, router, simulator

__all__ = ["_garage", "_simulator", "packages", "profile", "router", "simulator"]

HERE = Path(__file__).parent
#: Seconds for fetching the packages once, and for running a script.
INSTALL_DEADLINE = 100.0


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder `node_modules` of our lock file, fetched once into the user's cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not installed (node and npm are needed)")
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moa-operator" / "node"
    kept = cache / hashlib.sha256(lock).hexdigest()[:16]
    if not (kept / "node_modules").is_dir():
        _fetch(cache, kept)
    return kept / "node_modules"


def _fetch(cache: Path, kept: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        fresh = Path(place) / "packages"
        fresh.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, fresh)
        fetched = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=fresh,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE,
            check=False,
        )
        if fetched.returncode != 0:
            pytest.skip(f"npm ci cannot fetch the packages: {fetched.stderr.strip().splitlines()[-1:]}")
        if not kept.exists():
            # another worker may be as far as this one
            fresh.rename(kept)
