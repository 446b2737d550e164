"""Who decides how many router pods there are."""

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.labels import child_name, manifest
from moa_operator.resources import AUTOSCALERS, DEPLOYMENTS


def autoscaler(profile: MoAProfile) -> JSONObject | None:
    """Returns the HorizontalPodAutoscaler, if any."""
    wanted = profile.spec.router.autoscaling
    if wanted is None:
        return None
    target: JSONObject = {"type": "Utilization", "averageUtilization": wanted.target_cpu_utilization}
    spec: JSONObject = {
        "scaleTargetRef": {
            "apiVersion": DEPLOYMENTS.api_version,
            "kind": DEPLOYMENTS.kind,
            "name": child_name(profile.metadata.name),
        },
        "minReplicas": wanted.min_replicas,
        "maxReplicas": wanted.max_replicas,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    return manifest(AUTOSCALERS, profile, {"spec": spec})
