"""Events: what `kubectl describe` shows to have happened."""

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from moa_api.fields import JSONObject
from moa_operator.kube.client import Kube
from moa_operator.kube.errors import KubeError, Refused
from moa_operator.kube.objects import FIELD_MANAGER, Live
from moa_operator.resources import EVENTS, PROFILES

_log = logging.getLogger(__name__)

_LONGEST_NOTE: Final = 1_000
_MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Occurrence:
    """Something that happened to a profile.

    Attributes:
        action: What changed, such as the condition.
        reason: Why, in one word.
        note: Why, for people.
        is_warning: Whether somebody should look at it.
        identity: Tells it apart from all others, so that it is told once however often it is tried.
    """

    action: str
    reason: str
    note: str
    is_warning: bool
    identity: str


async def tell(kube: Kube, profile: Live, occurrence: Occurrence, instance: str) -> None:
    """Tells of something that happened. Nothing depends on it, so failing to is only logged.

    Args:
        kube: The API server.
        profile: To whom it happened.
        occurrence: What happened.
        instance: Who tells: the name of this replica.
    """
    try:
        await kube.create(EVENTS, _manifest(profile, occurrence, instance))
    except Refused as refusal:
        if not refusal.conflict:  # a conflict means that it has been told
            _log.warning("an event was not recorded", extra={"error": str(refusal)})
    except KubeError as error:
        _log.warning("an event was not recorded", extra={"error": str(error)})


def _manifest(profile: Live, occurrence: Occurrence, instance: str) -> JSONObject:
    kind: Literal["Warning", "Normal"] = "Warning" if occurrence.is_warning else "Normal"
    identity = hashlib.sha256(f"{profile.meta.uid}/{occurrence.identity}".encode()).hexdigest()[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{profile.meta.name}.{identity}", "namespace": profile.meta.namespace},
        "type": kind,
        "reason": occurrence.reason,
        "action": occurrence.action,
        "note": occurrence.note[:_LONGEST_NOTE],
        "eventTime": datetime.now(UTC).strftime(_MICRO_TIME),
        "reportingController": FIELD_MANAGER,
        "reportingInstance": instance[:128],
        "regarding": {
            "apiVersion": PROFILES.api_version,
            "kind": PROFILES.kind,
            "name": profile.meta.name,
            "namespace": profile.meta.namespace,
            "uid": profile.meta.uid,
        },
    }
