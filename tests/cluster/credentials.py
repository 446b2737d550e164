"""Certificates of a cluster and the kubeconfigs made from them."""

from __future__ import annotations

import base64
import ipaddress
import json
import subprocess
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal
from tests.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PKI_DEADLINE = 30.0


class Certificate(BaseModel):
    """A certificate to issue; the field names are those that the `pki` tool reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_pascal, populate_by_name=True)

    name: str
    """Of its files: `<name>.crt` and `<name>.key`."""
    common_name: str
    organizations: tuple[str, ...] = ()
    server: bool = False
    client: bool = False
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()


class _Request(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    authority: str
    certificates: tuple[Certificate, ...]


def client(name: str, common_name: str, *organizations: str) -> Certificate:
    """A client's certificate: Kubernetes reads the user from the common name and the groups from the organizations."""
    return Certificate(name=name, common_name=common_name, organizations=organizations, client=True)


def api_server(addresses: Iterable[str], service_range: str) -> Certificate:
    """The API server's certificate, for every name that a client in or outside the cluster knows it by."""
    first = next(ipaddress.ip_network(service_range).hosts())
    return Certificate(
        name="apiserver",
        common_name="kube-apiserver",
        server=True,
        dns_names=(
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ),
        ip_addresses=tuple(dict.fromkeys([*addresses, str(first)])),
    )


def issue(pki_tool: Path, directory: Path, authority: str, certificates: Iterable[Certificate]) -> None:
    """Make an authority, a pair for service account tokens, and the certificates.

    Args:
        pki_tool: The tool that does it (`tools/pki`).
        directory: Where the files go.
        authority: The authority's common name.
        certificates: What else to make.

    Raises:
        ClusterError: The tool refused.
    """
    request = _Request(authority=authority, certificates=tuple(certificates)).model_dump_json(by_alias=True)
    command = [str(pki_tool), str(directory)]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=_PKI_DEADLINE, check=False)
    if done.returncode:
        raise ClusterError(f"certificates: {done.stderr.strip()}")


def write_kubeconfig(path: Path, server: str, pki: Path, user: str, cluster: str) -> None:
    """Write access for one user, complete in one file that nobody else can read.

    Args:
        path: The file.
        server: The API server's URL.
        pki: The directory that `issue` filled.
        user: The certificate's name in there.
        cluster: What to call the context.
    """
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": _encoded(pki / "ca.crt")}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _encoded(pki / f"{user}.crt"),
                    "client-key-data": _encoded(pki / f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
    }
    path.touch(mode=0o600)
    # JSON is YAML of which every reader knows that "n" is a name and not a truth value.
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
