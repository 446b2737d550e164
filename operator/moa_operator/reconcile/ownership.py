"""Whose an object is that has the name of one of our children."""

from enum import Enum

from moa_api.models import Metadata
from moa_operator.kube.objects import Live
from moa_operator.render.labels import PROFILE_UID


class Ownership(Enum):
    """Whose an object is."""

    OURS = "ours"
    """It carries the profile's identity, as a label or as an owner reference: ours, to be repaired."""

    LEAVING = "leaving"
    """It is being deleted; what comes next can be judged when it is gone."""

    PREDECESSOR = "predecessor"
    """It belongs to an earlier profile of this name, and goes with that."""

    FOREIGN = "foreign"
    """It is somebody else's, and never adopted."""


def ownership(live: Live, profile: Metadata) -> Ownership:
    """Judges whose an object is.

    Args:
        live: An object of a child's kind and name.
        profile: The profile whose child would be called so.
    """
    if live.meta.deletion_timestamp is not None:
        return Ownership.LEAVING
    label = live.meta.labels.get(PROFILE_UID)
    if label == profile.uid or owned_by(live, profile):
        return Ownership.OURS
    return Ownership.FOREIGN if label is None else Ownership.PREDECESSOR


def owned_by(live: Live, profile: Metadata) -> bool:
    """Whether an object says by owner reference that it is the profile's."""
    return any(reference.uid == profile.uid for reference in live.meta.owner_references)


def may_prune(live: Live, profile: Metadata) -> bool:
    """Whether an object that is not wanted may be deleted: it must say twice that it is ours."""
    labelled = live.meta.labels.get(PROFILE_UID) == profile.uid
    return labelled and owned_by(live, profile) and live.meta.deletion_timestamp is None
