"""The Service in front of the router."""

from typing import Final

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.labels import child_name, manifest, selector
from moa_operator.resources import SERVICES

PORT: Final = 80


def service(profile: MoAProfile) -> JSONObject:
    """Returns the Service."""
    wanted = profile.spec.router.service
    spec: JSONObject = {
        "type": wanted.type,
        "selector": {**selector(profile.metadata.name)},
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": "http"}],
    }
    return manifest(SERVICES, profile, {"spec": spec}, annotations=wanted.annotations)


def endpoint(profile: MoAProfile) -> str:
    """Returns the base URL for clients within the cluster."""
    return f"http://{child_name(profile.metadata.name)}.{profile.metadata.namespace}.svc/v1"
