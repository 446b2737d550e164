"""How a Prometheus comes to the router's metrics."""

from moa_api.fields import JSONObject, format_duration
from moa_api.models import MoAProfile
from moa_operator.render.deployment import ADMIN_PORT
from moa_operator.render.labels import PROFILE_UID, manifest
from moa_operator.resources import SERVICE_MONITORS


def service_monitor(profile: MoAProfile) -> JSONObject | None:
    """Returns the ServiceMonitor, if any.

    It names the pods' port: the Service does not have it, lest a load balancer show the metrics to everyone.
    """
    wanted = profile.spec.telemetry.service_monitor
    if not wanted.enabled:
        return None
    spec: JSONObject = {
        "selector": {"matchLabels": {PROFILE_UID: profile.metadata.uid or ""}},
        "endpoints": [
            {"targetPort": ADMIN_PORT, "path": "/metrics", "interval": format_duration(wanted.interval)},
        ],
    }
    return manifest(SERVICE_MONITORS, profile, {"spec": spec}, more_labels=wanted.labels)
