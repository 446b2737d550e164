"""How many router pods may leave at a time."""

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.labels import manifest, selector
from moa_operator.resources import DISRUPTION_BUDGETS


def disruption_budget(profile: MoAProfile) -> JSONObject | None:
    """Returns the PodDisruptionBudget, if any."""
    wanted = profile.spec.router.pod_disruption_budget
    if not wanted.enabled:
        return None
    spec: JSONObject = {
        "maxUnavailable": wanted.max_unavailable,
        "selector": {"matchLabels": {**selector(profile.metadata.name)}},
        # A pod that never became ready serves nobody; it must not keep its node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return manifest(DISRUPTION_BUDGETS, profile, {"spec": spec})
