"""Who may connect to the router."""

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.deployment import ADMIN_PORT, CLIENT_PORT
from moa_operator.render.labels import manifest, selector
from moa_operator.resources import NETWORK_POLICIES


def network_policy(profile: MoAProfile) -> JSONObject | None:
    """Returns the NetworkPolicy, if any.

    What the router may connect to stays open: its upstreams are Services and URLs, which a NetworkPolicy cannot name.
    """
    wanted = profile.spec.router.network_policy
    if not wanted.enabled:
        return None
    clients: list[JSONObject] = [*wanted.from_] or [{"podSelector": {}}]
    spec: JSONObject = {
        "podSelector": {"matchLabels": {**selector(profile.metadata.name)}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [*clients], "ports": [{"port": CLIENT_PORT, "protocol": "TCP"}]},
            {"ports": [{"port": ADMIN_PORT, "protocol": "TCP"}]},
        ],
    }
    return manifest(NETWORK_POLICIES, profile, {"spec": spec})
