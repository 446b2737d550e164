"""What can go wrong when a test asks for images."""

from __future__ import annotations


class CannotBuild(Exception):  # noqa: N818 - reads as the sentence it starts: "cannot build: no buildah on PATH"
    """This machine cannot build images; the message says why, in words that fit a skipped test's reason."""


class BuildError(Exception):
    """A build that should work does not; the message ends with what was said last."""
