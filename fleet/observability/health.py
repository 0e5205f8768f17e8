"""Serves liveness, readiness and metrics over HTTP, for Kubernetes and Prometheus: `/healthz`, `/readyz`, `/metrics`.

Liveness is a heartbeat of the event loop, and nothing else. Readiness is that everything that was expected has been
seen to work, and lately.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from fleet.errors import ConfigError, FleetError
from fleet.observability.metrics import Metrics

BEAT_EVERY_S = 1.0
STALE_S = 10.0
CLOSE_WITHIN_S = 0.5
PROBLEMS = ("nats", "streams", "ray", "workers", "models", "stopping")
"""Those that the metrics show by their names."""
PROBLEMS_BEGIN = {
    "NATS stores nothing": "store",
    "no room in NATS": "store",
    "writes fail": "writes",
    "stream ": "stream full",
    "consumer ": "consumer stalled",
    "streams are changed": "changed",
}
"""Others by how they begin: a metric has few labels."""
OTHER_PROBLEM = "other"


class Observation(NamedTuple):
    """What a probe saw. `detail` is a sentence; it is shown for a problem, and for what is fine but worth telling."""

    ok: bool
    detail: str = ""


class Health:
    """What a component knows of itself. A problem is named for what is wrong, or for who does not answer."""

    def __init__(self, component: str, metrics: Metrics | None = None) -> None:
        self.component = component
        self.metrics = metrics or Metrics()
        self._beat = time.monotonic()
        self._facts: dict[str, tuple[Observation, float]] = {}
        self._probes: dict[str, Callable[[], Observation]] = {}
        self.metrics["fleet_ready"].at().set_function(lambda: float(not self.problems()))

    def beat(self) -> None:
        """Notes that the event loop runs."""
        self._beat = time.monotonic()

    async def keep_beating(self) -> None:
        """Until cancelled, as long as the loop turns."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_EVERY_S)

    def expect(self, problem: str, detail: str) -> None:
        """It is a problem until `set` says that it was seen to be fine."""
        self.set(problem, ok=False, detail=detail)

    def set(self, problem: str, *, ok: bool, detail: str = "") -> None:
        """The outcome of a probe, now."""
        self._facts[problem] = (Observation(ok, detail), time.monotonic())

    def forget(self, problem: str) -> None:
        """There is no such probe any more."""
        self._facts.pop(problem, None)

    def watch(self, problem: str, probe: Callable[[], Observation]) -> None:
        """Asks `probe` whenever readiness is asked for."""
        self._probes[problem] = probe

    def scrape(self) -> bytes:
        """What `/metrics` answers."""
        problems = dict.fromkeys((*PROBLEMS, *PROBLEMS_BEGIN.values(), OTHER_PROBLEM), 0.0)
        problems |= {_kind_of(problem): 1.0 for problem in self.problems()}
        self.metrics["fleet_problem"].replace(problems)
        return self.metrics.text()

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately."""
        return time.monotonic() - self._beat < STALE_S

    def problems(self) -> list[str]:
        """What keeps the component from being ready."""
        return [problem for problem, seen in self._seen().items() if not seen.ok]

    def readiness(self) -> dict[str, Any]:
        """What `/readyz` answers."""
        seen = self._seen()
        problems = [problem for problem, (ok, _) in seen.items() if not ok]
        details = {
            problem: detail or f"{problem}: not fine" for problem, (ok, detail) in seen.items() if detail or not ok
        }
        return {"ready": not problems, "problems": problems, "details": details}

    def _seen(self) -> dict[str, Observation]:
        now = time.monotonic()
        seen = {problem: _aged(fact, now - at) for problem, (fact, at) in self._facts.items()}
        return seen | {problem: probe() for problem, probe in self._probes.items()}


def _kind_of(problem: str) -> str:
    if problem in PROBLEMS:
        return problem
    return next((kind for begin, kind in PROBLEMS_BEGIN.items() if problem.startswith(begin)), OTHER_PROBLEM)


def _aged(seen: Observation, age_s: float) -> Observation:
    """An old good answer is none."""
    return Observation(False, f"not seen to work for {age_s:.0f} s") if seen.ok and age_s > STALE_S else seen


async def listen(health: Health, host: str | None, port: int) -> Coroutine[Any, Any, None]:
    """Listens on `port`; without `host` on all interfaces. Raises `ConfigError` that names the setting.

    What it returns serves until cancelled, and raises `FleetError` when the port is lost.
    """

    async def serve(request: web.BaseRequest) -> web.Response:
        match request.path:
            case "/healthz":
                return web.json_response({"alive": health.alive}, status=200 if health.alive else 503)
            case "/readyz":
                readiness = health.readiness()
                return web.json_response(readiness, status=200 if readiness["ready"] else 503)
            case "/metrics":
                return web.Response(body=health.scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        return web.Response(status=404)

    answering = web.Server(serve)
    try:
        server = await asyncio.get_running_loop().create_server(answering, host, port)
    except OSError as error:
        setting = f"FLEET_HEALTH_HOST={host} FLEET_HEALTH_PORT={port}" if host else f"FLEET_HEALTH_PORT={port}"
        raise ConfigError(f"{setting}: cannot listen there: {error.strerror or error}") from None

    async def go_on() -> None:
        try:
            while server.is_serving():  # noqa: ASYNC110 - a server says nothing when it is closed
                await asyncio.sleep(BEAT_EVERY_S)
            raise FleetError(f"nothing listens on the health port {port} any more")
        finally:
            server.close()
            await answering.shutdown(CLOSE_WITHIN_S)

    return go_on()
