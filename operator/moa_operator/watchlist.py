"""What profiles refer to, looked at every so often: nobody may watch all Secrets of a cluster for the sake of a few."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.kube.errors import KubeError
from moa_operator.reconcile.resolve import KINDS
from moa_operator.references import Reference

_log = logging.getLogger(__name__)

MISSING_SECONDS: Final = 5.0
"""Time between two looks for what was missing."""

PRESENT_SECONDS: Final = 30.0
"""Time between two looks at what was there."""

_AT_A_TIME: Final = 8


class Watchlist:
    """Remembers what profiles refer to, and notices when it changes.

    Only metadata is read: the content of a Secret travels when a reconcile needs it.

    Args:
        kube: The API server.
        notice: Is told of every profile that refers to something that has changed.
    """

    def __init__(self, kube: Kube, notice: Callable[[Key], None]) -> None:
        self._kube = kube
        self._notice = notice
        self._seen: dict[Key, Mapping[Reference, str]] = {}

    def remember(self, key: Key, versions: Mapping[Reference, str]) -> None:
        """Takes down what a profile refers to, instead of what it did.

        Args:
            key: The profile.
            versions: Resource version of each object as it was seen; empty for a missing one.
        """
        if versions:
            self._seen[key] = versions
        else:
            self._seen.pop(key, None)

    async def run(self) -> None:
        """Looks at everything, again and again, for ever."""
        rounds = round(PRESENT_SECONDS / MISSING_SECONDS)
        while True:
            for turn in range(rounds):
                await asyncio.sleep(MISSING_SECONDS)
                await self.look(everywhere=turn == rounds - 1)

    async def look(self, *, everywhere: bool) -> None:
        """Looks once, and tells of what has changed.

        Args:
            everywhere: Also at what was there; only for what was missing otherwise.
        """
        known = {
            reference
            for versions in self._seen.values()
            for reference, version in versions.items()
            if everywhere or not version
        }
        gate = asyncio.Semaphore(_AT_A_TIME)

        async def version(reference: Reference) -> tuple[Reference, str | None]:
            async with gate:
                return reference, await self._version(reference)

        answers = dict(await asyncio.gather(*map(version, known)))
        for key, versions in tuple(self._seen.items()):
            if any(answers.get(reference) not in {None, seen} for reference, seen in versions.items()):
                self._notice(key)

    async def _version(self, reference: Reference) -> str | None:
        """Returns the version of an object: empty where there is none, None where it cannot be told."""
        try:
            live = await self._kube.get_metadata(KINDS[reference.kind], reference.namespace, reference.name)
        except KubeError as error:
            _log.warning("%s cannot be looked at", reference, extra={"error": str(error)})
            return None
        return "" if live is None else live.meta.resource_version
