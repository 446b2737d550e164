"""All children of a profile."""

from collections.abc import Callable, Mapping
from typing import Final

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.autoscaler import autoscaler
from moa_operator.render.configuration import checksum, config_map
from moa_operator.render.deployment import deployment
from moa_operator.render.disruption_budget import disruption_budget
from moa_operator.render.http_route import http_route
from moa_operator.render.network_policy import network_policy
from moa_operator.render.service import service
from moa_operator.render.service_account import service_account
from moa_operator.render.service_monitor import service_monitor
from moa_operator.resources import (
    AUTOSCALERS,
    CHILDREN,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    HTTP_ROUTES,
    NETWORK_POLICIES,
    SERVICE_ACCOUNTS,
    SERVICE_MONITORS,
    SERVICES,
    Resource,
)

_RENDERERS: Final[Mapping[Resource, Callable[[MoAProfile], JSONObject | None]]] = {
    SERVICE_ACCOUNTS: service_account,
    CONFIG_MAPS: config_map,
    SERVICES: service,
    DISRUPTION_BUDGETS: disruption_budget,
    AUTOSCALERS: autoscaler,
    NETWORK_POLICIES: network_policy,
    SERVICE_MONITORS: service_monitor,
    HTTP_ROUTES: http_route,
}


def children(profile: MoAProfile, references: str, default_image: str) -> dict[Resource, JSONObject]:
    """Returns the manifests of everything a profile wants, in the order to apply them.

    Args:
        profile: The profile, as an API server gave it: with identity and generation.
        references: Digest of what it refers to; pods are replaced when it changes.
        default_image: The router's image where the profile names none.
    """
    wanted: dict[Resource, JSONObject] = {}
    for resource in CHILDREN:
        if resource is DEPLOYMENTS:
            wanted[resource] = deployment(profile, checksum(profile, references), default_image)
        elif (rendered := _RENDERERS[resource](profile)) is not None:
            wanted[resource] = rendered
    return wanted
