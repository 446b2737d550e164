"""Which kinds the API server has: those of others come and go with their definitions."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from moa_operator.kube.client import Kube, together
from moa_operator.kube.errors import KubeError
from moa_operator.resources import BUILT_IN_CHILDREN, OPTIONAL_CHILDREN, PROFILES, Resource

_log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 2.0


class Discovery:
    """Knows the kinds of children that the API server has.

    Args:
        kube: The API server.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._optional: tuple[Resource, ...] = ()
        self._serves_profiles = False

    @property
    def serves_profiles(self) -> bool:
        """Whether profiles were served when it was last asked."""
        return self._serves_profiles

    def kinds(self) -> tuple[Resource, ...]:
        """Returns the kinds of children, as of the last look."""
        return BUILT_IN_CHILDREN + self._optional

    async def wait(self) -> tuple[Resource, ...]:
        """Waits until profiles are served; returns the kinds of children then."""
        while True:
            try:
                await self.refresh()
                if self._serves_profiles:
                    return self.kinds()
                _log.warning("the API server has no MoAProfiles; install their CustomResourceDefinition")
            except KubeError as error:
                _log.warning("the API server cannot be asked what it has", extra={"error": str(error)})
            await asyncio.sleep(_RETRY_SECONDS)

    async def refresh(self) -> bool:
        """Looks again; returns whether anything has changed.

        Raises:
            KubeError: The API server cannot be asked.
        """
        asked = (PROFILES, *OPTIONAL_CHILDREN)
        answers = dict(zip(asked, await together(self._kube.serves(each) for each in asked), strict=True))
        former = self._serves_profiles, self._optional
        self._serves_profiles = answers[PROFILES]
        self._optional = tuple(each for each in OPTIONAL_CHILDREN if answers[each])
        return (self._serves_profiles, self._optional) != former

    async def run(self, changed: Callable[[], None]) -> None:
        """Looks every minute, and tells when something has changed."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                if await self.refresh():
                    changed()
            except KubeError as error:
                _log.warning("the API server cannot be asked what it has", extra={"error": str(error)})
