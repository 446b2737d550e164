"""Who we are to the API server, and where it is."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubernetes.aio import client, config

from moa_operator.kube.objects import FIELD_MANAGER

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CONNECTIONS: Final = 32


@dataclass(frozen=True)
class Credentials:
    """What it takes to connect.

    Attributes:
        server: URL of the API server.
        authority: File with the authorities that its certificate is verified against; the system's where None.
        verify: Whether it is verified at all.
        token: Bearer token, if any.
        certificate: File with a client certificate, if any.
        key: File with the key to that.
    """

    server: str
    authority: str | None
    verify: bool
    token: str | None
    certificate: str | None
    key: str | None


async def connect() -> client.ApiClient:
    """Returns a client for the pod's service account, or for the kubeconfig where there is none.

    It is an async context manager. A service account's token is read again before it expires.

    Raises:
        ConfigException: Neither is there, or what is there cannot be used.
    """
    api = client.ApiClient(await _configuration())
    api.user_agent = FIELD_MANAGER
    return api


async def credentials() -> Credentials:
    """Returns what `connect` would connect with, for clients of other make.

    Raises:
        ConfigException: Neither a service account nor a kubeconfig is there, or what is there cannot be used.
    """
    found = await _configuration()
    header = await found.get_api_key_with_prefix("BearerToken") or ""
    return Credentials(
        server=found.host,
        authority=found.ssl_ca_cert,
        verify=found.verify_ssl,
        token=header.partition(" ")[2] or None,
        certificate=found.cert_file,
        key=found.key_file,
    )


async def _configuration() -> client.Configuration:
    settings = client.Configuration(connection_pool_maxsize=_CONNECTIONS)
    if in_cluster():
        config.load_incluster_config(settings)  # type: ignore[no-untyped-call] # theirs
    else:
        await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call] # theirs
    return settings


def in_cluster() -> bool:
    """Whether this is a pod with a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (_SERVICE_ACCOUNT / "token").is_file()


def own_namespace() -> str | None:
    """Returns the namespace of the pod we run in; None where we run in none."""
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
