"""The identity of the router's pods."""

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.labels import manifest
from moa_operator.resources import SERVICE_ACCOUNTS


def service_account(profile: MoAProfile) -> JSONObject:
    """Returns the ServiceAccount. Nothing in the router speaks to Kubernetes, so it has neither rights nor a token."""
    return manifest(
        SERVICE_ACCOUNTS,
        profile,
        {"automountServiceAccountToken": False},
        annotations=profile.spec.router.service_account.annotations,
    )
