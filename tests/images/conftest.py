"""What this room's tests share."""

from __future__ import annotations

from tests.images.fixtures import images

__all__ = ["images"]
