"""Which spec to go by: the one that is written, or the last one that was valid. Pure."""

import json
from dataclasses import dataclass

from moa_api.v1alpha1 import MoAProfile, ProfileError, load_profile
from moa_operator.kube.objects import Live
from moa_operator.render.configuration import ACCEPTED_FILE
from moa_operator.render.labels import GENERATION


@dataclass(frozen=True)
class Accepted:
    """What a profile comes to.

    Attributes:
        profile: What to go by; None where nothing valid was ever written.
        problems: What is wrong with what is written now; empty where it is valid.
    """

    profile: MoAProfile | None
    problems: tuple[str, ...]


def accept(written: Live, config_map: Live | None) -> Accepted:
    """Reads a profile; falls back on the one that was accepted last where it is not valid.

    Args:
        written: The profile as the API server has it.
        config_map: Its ConfigMap, which holds the profile that was accepted last; None where there is none.
    """
    try:
        return Accepted(load_profile(written.raw), ())
    except ProfileError as error:
        return Accepted(_last(written, config_map), tuple(error.problems))


def _last(written: Live, config_map: Live | None) -> MoAProfile | None:
    if config_map is None:
        return None
    data = config_map.raw.get("data")
    text = data.get(ACCEPTED_FILE) if isinstance(data, dict) else None
    if not isinstance(text, str):
        return None
    try:
        document = json.loads(text)
        metadata = {
            "name": written.meta.name,
            "namespace": written.meta.namespace,
            "uid": written.meta.uid,
            "generation": int(config_map.meta.annotations.get(GENERATION, "0")),
        }
        return load_profile({**document, "metadata": metadata})
    except (ValueError, TypeError):  # somebody has been at it, or an older operator took what this one does not
        return None
