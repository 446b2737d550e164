"""A Lease as an API server keeps it: who leads, since when, and how often that has changed."""

from datetime import UTC, datetime
from typing import Final

from pydantic import Field

from moa_api.fields import JSONObject
from moa_operator.kube.client import Kube
from moa_operator.kube.errors import Refused
from moa_operator.kube.objects import KubeModel, Live, Meta
from moa_operator.resources import LEASES

_MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class LeaseSpec(KubeModel):
    """What a Lease says."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = Field(default=0)


class Lease(KubeModel):
    """A Lease, at one of its versions."""

    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


class Leases:
    """One Lease, read and written.

    Args:
        kube: The API server.
        namespace: Where the Lease is.
        name: What it is called.
    """

    def __init__(self, kube: Kube, namespace: str, name: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name

    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def read(self) -> Lease | None:
        """Returns the Lease as it is; None where there is none.

        Raises:
            KubeError: The API server cannot be asked.
        """
        live = await self._kube.get(LEASES, self._namespace, self._name)
        return None if live is None else _lease(live)

    async def write(self, former: Lease | None, holder: str, seconds: int) -> Lease | None:
        """Takes, renews or gives up the Lease, unless somebody else has written it meanwhile.

        Args:
            former: As it was read; None to create it.
            holder: Who has it from now on; nobody where empty.
            seconds: How long it holds without being renewed.

        Returns:
            The Lease as it is now; None where somebody else was faster.

        Raises:
            KubeError: The API server cannot be asked.
        """
        manifest = self._manifest(former, holder, seconds)
        try:
            if former is None:
                return _lease(await self._kube.create(LEASES, manifest))
            return _lease(await self._kube.update(LEASES, manifest))
        except Refused as refusal:
            if refusal.conflict or refusal.absent:
                return None
            raise

    def _manifest(self, former: Lease | None, holder: str, seconds: int) -> JSONObject:
        now = datetime.now(UTC).strftime(_MICRO_TIME)
        known = former.spec if former is not None else LeaseSpec()
        is_new = holder != known.holder_identity
        version = {"resourceVersion": former.metadata.resource_version} if former is not None else {}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace, **version},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": seconds,
                "acquireTime": now if is_new else known.acquire_time,
                "renewTime": now,
                "leaseTransitions": known.lease_transitions + (1 if is_new and holder else 0),
            },
        }


def _lease(live: Live) -> Lease:
    return Lease.model_validate(live.raw)
