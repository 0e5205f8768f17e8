"""Liveness, readiness and metrics over HTTP, for Kubernetes and Prometheus: `/healthz`, `/readyz`, `/metrics`.

Liveness is a heartbeat of the event loop; readiness is that every probe was answered lately.
"""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

STALE_S = 10.0


class Health:
    """What a component knows of itself."""

    def __init__(self, component: str) -> None:
        self.component = component
        self.registry = CollectorRegistry()
        self._beat = time.monotonic()
        self._facts: dict[str, tuple[bool, float]] = {}
        self._probes: dict[str, Callable[[], bool]] = {}
        self.gauge("fleet_ready", "1 when every probe was answered lately", lambda: float(not self.problems()))

    def beat(self) -> None:
        """The loop is alive."""
        self._beat = time.monotonic()

    def set(self, what: str, *, ok: bool) -> None:
        """The outcome of a probe, now."""
        self._facts[what] = (ok, time.monotonic())

    def forget(self, what: str) -> None:
        """There is no such probe any more."""
        self._facts.pop(what, None)

    def watch(self, what: str, probe: Callable[[], bool]) -> None:
        """Asks `probe` whenever readiness is asked for."""
        self._probes[what] = probe

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A number read at each scrape."""
        Gauge(name, meaning, registry=self.registry).set_function(value)

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately."""
        return time.monotonic() - self._beat < STALE_S

    def problems(self) -> list[str]:
        """What keeps the component from being ready."""
        now = time.monotonic()
        bad = [what for what, (ok, at) in self._facts.items() if not ok or now - at > STALE_S]
        return bad + [what for what, probe in self._probes.items() if not probe()]


async def serve_health(health: Health, port: int) -> None:
    """Serves until cancelled."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"alive": health.alive}, status=200 if health.alive else 503)

    async def readyz(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.json_response({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(health.registry), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    server = web.AppRunner(app, access_log=None)
    await server.setup()
    try:
        await web.TCPSite(server, None, port).start()
        await asyncio.Event().wait()
    finally:
        await server.cleanup()
