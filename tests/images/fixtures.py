"""`images`: the project's container images, for tests that look into them or run them in pods.

A conftest imports it by name. A machine that cannot build images skips those tests and says why; with
`MOA_REQUIRE_NODES=1` they fail instead. The first build of all takes minutes, so tests that ask for it need a
time limit to match (`pytest.mark.timeout`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.images import builds
from tests.images.errors import CannotBuild

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.images.builds import Built


@pytest.fixture(scope="session")
def images() -> Mapping[str, Built]:
    """Every image of the project (`builds.NAMES`), built from the working tree."""
    try:
        return builds.build()
    except CannotBuild as reason:
        if os.environ.get("MOA_REQUIRE_NODES", "") not in {"", "0"}:
            pytest.fail(f"MOA_REQUIRE_NODES is set, and images cannot be built: {reason}", pytrace=False)
        pytest.skip(f"no images: {reason}")
