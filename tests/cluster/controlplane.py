"""The control plane's command lines: what is set, and why. Pure; the supervisor runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster.credentials import Certificate, api_server, client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.binaries import Binaries
    from tests.cluster.state import State

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"

# Sockets in the state directory: no port to collide with, and nobody else may open them. etcd wants something that
# looks like a port; the file is then called `etcd:0`.
_ETCD_CLIENTS = "unix://etcd:0"
_ETCD_PEERS = "unix://peer:0"

_SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class Endpoint:
    """Where a cluster's API server is reached."""

    address: str
    port: int
    advertised: str
    """The address that pods would use. The server refuses loopback here even where there are no pods."""
    service_range: str = "10.96.0.0/16"

    @property
    def url(self) -> str:
        """As a kubeconfig has it."""
        return f"https://{self.address}:{self.port}"


def certificates(endpoint: Endpoint) -> tuple[Certificate, ...]:
    """What the control plane and its administrator need."""
    return (
        api_server((endpoint.address, endpoint.advertised, "127.0.0.1"), endpoint.service_range),
        client("admin", "admin", "system:masters"),
        client("controller-manager", "system:kube-controller-manager"),
    )


def etcd(binaries: Binaries) -> list[str]:
    """The store; its data is thrown away with the cluster, so that nothing waits for a disk."""
    return [
        str(binaries.path(ETCD)),
        "--data-dir=etcd-data",
        f"--listen-client-urls={_ETCD_CLIENTS}",
        f"--advertise-client-urls={_ETCD_CLIENTS}",
        f"--listen-peer-urls={_ETCD_PEERS}",
        f"--initial-advertise-peer-urls={_ETCD_PEERS}",
        f"--initial-cluster=default={_ETCD_PEERS}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver(binaries: Binaries, state: State, endpoint: Endpoint, *, nodes: bool) -> list[str]:
    """The API server, with its own defaults for admission (Pod Security included) and no audit log.

    It shares its port with the socket by which the supervisor has reserved it, so that the port stays the cluster's own
    while the server is down. Without nodes it does not offer itself as a Service, for nobody could follow.
    """
    pki = state.pki
    return [
        str(binaries.path(API_SERVER)),
        f"--etcd-servers={_ETCD_CLIENTS}",
        f"--bind-address={endpoint.address}",
        f"--secure-port={endpoint.port}",
        "--permit-port-sharing=true",
        f"--advertise-address={endpoint.advertised}",
        f"--service-cluster-ip-range={endpoint.service_range}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--service-account-issuer={_SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--profiling=false",
        *(_kubelet_access(pki) if nodes else ["--endpoint-reconciler-type=none"]),
    ]


def _kubelet_access(pki: Path) -> list[str]:
    return [
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def kube_scheduler(binaries: Binaries, kubeconfig: Path) -> list[str]:
    """The scheduler, where there are nodes to choose from."""
    return [
        str(binaries.path(SCHEDULER)),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]


def kube_controller_manager(binaries: Binaries, state: State, kubeconfig: Path, *, nodes: bool) -> list[str]:
    """The controllers, each under its own service account, as a real cluster has them.

    The rate limits are lifted because a thousand Deployments at once is a test here; the grace period of the stage's
    node because it cannot report while the API server is stopped on purpose.
    """
    pki = state.pki
    return [
        str(binaries.path(CONTROLLER_MANAGER)),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--allocate-node-cidrs=false",
        f"--flex-volume-plugin-dir={state.directory / 'volume-plugins'}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--profiling=false",
        *([] if nodes else ["--node-monitor-grace-period=1h"]),
    ]
