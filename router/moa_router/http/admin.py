"""The admin port: what the platform asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from moa_router.profiles import Registry
    from moa_router.telemetry.metrics import Metrics


class Admin:
    """Metrics and probes.

    Args:
        registry: the profiles.
        metrics: what `/metrics` shows.
    """

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self.draining = False

    def application(self) -> web.Application:
        """The application to serve on the admin port."""
        app = web.Application()
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        return app

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus or OpenMetrics text, as `Accept` says."""
        # rendering thousands of series takes milliseconds that streams would feel
        body, content_type = await asyncio.to_thread(self._metrics.render, request.headers.get("accept", ""))
        return web.Response(body=body, headers={"content-type": content_type})

    async def livez(self, _: web.Request) -> web.Response:
        """The event loop turns: that is all a restart could mend."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether clients should be sent here, and what is wrong with profiles that were refused."""
        served = [served.plan.name for served in self._registry.served]
        ready = bool(served) and not self.draining
        detail = {
            "ready": ready,
            "draining": self.draining,
            "profiles": served,
            "refused": self._registry.problems,
        }
        return web.json_response(detail, status=200 if ready else 503)
