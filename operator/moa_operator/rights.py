"""What the operator may do, and why: no more than its calls need. Roles are made from this."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from moa_api.fields import JSONObject
from moa_operator.resources import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    HTTP_ROUTES,
    LEASES,
    NETWORK_POLICIES,
    PODS,
    PROFILES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICE_MONITORS,
    SERVICES,
    Resource,
)


@dataclass(frozen=True)
class Right:
    """Leave to do something with a kind.

    Attributes:
        resource: The kind.
        verbs: What may be done.
        reason: What for.
        subresource: The part of it that is meant; the object itself where empty.
        names: The objects that are meant; all where empty.
    """

    resource: Resource
    verbs: tuple[str, ...]
    reason: str
    subresource: str = ""
    names: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The kind as roles write it."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


_KEPT: Final = ("get", "list", "watch", "create", "patch")
_PRUNED: Final = (*_KEPT, "delete")

WORK: Final = (
    Right(PROFILES, ("get", "list", "watch"), "reads profiles"),
    Right(PROFILES, ("patch",), "reports on them", subresource="status"),
    *(Right(each, _KEPT, "makes and repairs it") for each in (SERVICE_ACCOUNTS, CONFIG_MAPS, SERVICES, DEPLOYMENTS)),
    *(
        Right(each, _PRUNED, "makes and repairs it, and removes it when it is no longer wanted")
        for each in (DISRUPTION_BUDGETS, AUTOSCALERS, NETWORK_POLICIES, SERVICE_MONITORS, HTTP_ROUTES)
    ),
    Right(SECRETS, ("get",), "sees whether those that a profile names are there, and when they change"),
    Right(PODS, ("list",), "finds out why a router does not become ready"),
    Right(EVENTS, ("create",), "tells of turns"),
)
"""Rights wherever profiles are served."""


def leadership(lease: str) -> tuple[Right, ...]:
    """Returns the rights where the Lease is.

    Args:
        lease: Its name.
    """
    return (
        Right(LEASES, ("create",), "stands for election for the first time"),
        Right(LEASES, ("get", "update"), "stands for election", names=(lease,)),
    )


def rules(rights: Iterable[Right]) -> list[JSONObject]:
    """Returns the rules of a Role or ClusterRole."""
    return [
        {
            "apiGroups": [right.resource.group],
            "resources": [right.target],
            "verbs": [*right.verbs],
            **({"resourceNames": [*right.names]} if right.names else {}),
        }
        for right in rights
    ]
