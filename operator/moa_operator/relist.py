"""All profiles, listed every so often: the net under the watches, which may miss things and not know it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.kube.errors import KubeError
from moa_operator.metrics import Metrics
from moa_operator.resources import PROFILES

_log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 30.0
"""Time that a watch has to tell of what a list shows."""

STUCK_AFTER: Final = 2
"""Lists in a row that show what no watch told of, after which watching counts as broken."""


class Relist:
    """Lists profiles, has each looked at, and checks that the watches told of them.

    Args:
        kube: The API server.
        namespaces: Where; everywhere if empty.
        metrics: Where misses are counted.
        notice: Is told of every profile.
        missed: Is called when watches have missed something.
    """

    def __init__(
        self,
        kube: Kube,
        namespaces: Sequence[str],
        metrics: Metrics,
        notice: Callable[[Key], None],
        missed: Callable[[], None],
    ) -> None:
        self._kube = kube
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._metrics = metrics
        self._notice = notice
        self._missed = missed
        self._told: dict[Key, str] = {}
        self._misses = 0

    @property
    def watches_stuck(self) -> bool:
        """Whether the watches have missed things more than once in a row."""
        return self._misses >= STUCK_AFTER

    def tell(self, key: Key, version: str) -> None:
        """Takes down that a watch has told of a version of a profile."""
        self._told[key] = version

    def forget(self, key: Key) -> None:
        """Drops a profile that is gone."""
        self._told.pop(key, None)

    async def run(self, seconds: float) -> None:
        """Lists every so often, for ever.

        Args:
            seconds: Time between two lists.
        """
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.once()
            except KubeError as error:
                _log.warning("profiles cannot be listed", extra={"error": str(error)})

    async def once(self) -> None:
        """Lists once.

        Raises:
            KubeError: The API server cannot be asked.
        """
        listed = {
            Key(each.meta.namespace, each.meta.name): each.meta.resource_version
            for namespace in self._namespaces
            async for each in self._kube.list_all(PROFILES, namespace)
        }
        for key in listed:
            self._notice(key)
        await asyncio.sleep(GRACE_SECONDS)
        late = [key for key, version in listed.items() if _is_older(self._told.get(key), version)]
        self._misses = self._misses + 1 if late else 0
        if late:
            self._metrics.watch_missed.inc(len(late))
            _log.warning("the watches missed profiles", extra={"profiles": len(late), "one": str(late[0])})
            self._missed()


def _is_older(told: str | None, listed: str) -> bool:
    """Whether what a watch told of is older than what a list shows.

    Resource versions compare as whole numbers (KEP-5504; so they have been for as long as etcd made them).
    """
    if told is None:
        return True
    return int(told) < int(listed) if told.isdecimal() and listed.isdecimal() else False
