"""How clients outside the cluster reach the router through a Gateway."""

from typing import cast

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_api.router import ParentRef
from moa_operator.render.labels import child_name, manifest
from moa_operator.render.service import PORT
from moa_operator.resources import HTTP_ROUTES


def http_route(profile: MoAProfile) -> JSONObject | None:
    """Returns the HTTPRoute, if any."""
    wanted = profile.spec.router.route
    if wanted is None:
        return None
    spec: JSONObject = {
        "parentRefs": [_parent(parent) for parent in wanted.parent_refs],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                "backendRefs": [{"name": child_name(profile.metadata.name), "port": PORT}],
            }
        ],
    }
    if wanted.hostnames:
        spec["hostnames"] = [*wanted.hostnames]
    return manifest(HTTP_ROUTES, profile, {"spec": spec})


def _parent(parent: ParentRef) -> JSONObject:
    return cast("JSONObject", parent.model_dump(by_alias=True, mode="json", exclude_none=True))
