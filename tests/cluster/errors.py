"""What can go wrong when a test asks for a cluster."""

from __future__ import annotations


class CannotProvide(Exception):  # noqa: N818 - reads as the sentence it starts: "cannot provide: no Go on PATH"
    """This machine cannot give what was asked for; the message says why, in words that fit a skipped test's reason."""


class ClusterError(Exception):
    """A cluster that should work does not; the message says which part, and what its log said last."""
