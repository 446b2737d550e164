"""What is reported about a profile, apart from its conditions. Pure."""

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile, calls_per_request, panel_size
from moa_operator.reconcile.readiness import Readiness
from moa_operator.reconcile.resolve import Resolution
from moa_operator.render.labels import selector
from moa_operator.render.service import endpoint


def figures(profile: MoAProfile, state: Readiness, resolution: Resolution) -> JSONObject:
    """Returns the status of a profile but for `observedGeneration` and `conditions`.

    Args:
        profile: What is gone by.
        state: How its router is.
        resolution: What became of what it refers to.
    """
    return {
        "endpoint": endpoint(profile),
        "replicas": state.pods,
        "readyReplicas": state.ready,
        "selector": ",".join(f"{name}={value}" for name, value in sorted(selector(profile.metadata.name).items())),
        "panelSize": panel_size(profile.spec),
        "callsPerRequest": calls_per_request(profile.spec),
        "upstreams": [*_upstreams(profile, resolution)],
    }


def _upstreams(profile: MoAProfile, resolution: Resolution) -> list[JSONObject]:
    lacking = {
        upstream.name: "\n".join(lack.text for lack in resolution.lacks if lack.need.upstream == upstream.name)
        for upstream in profile.spec.upstreams
    }
    upstreams: list[JSONObject] = []
    for upstream in profile.spec.upstreams:
        entry: JSONObject = {
            "name": upstream.name,
            "url": upstream.base_url(profile.metadata.namespace),
            "resolved": not lacking[upstream.name],
        }
        if lacking[upstream.name]:
            entry["message"] = lacking[upstream.name]
        upstreams.append(entry)
    return upstreams
