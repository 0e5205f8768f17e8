"""Long-lived Ray actors that take agent calls from JetStream. The only module that imports ray.

The actors are named and detached: they outlive the dispatcher that made them, and every dispatcher sees to it that the
same ones exist. JetStream hands out the calls; Ray places actors and starts dead ones again.
"""

import asyncio
import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

import ray
import structlog

from fleet import __version__
from fleet.config import Settings, with_own_nats
from fleet.messages import encode

log = structlog.get_logger(__name__)

NAMESPACE = "deliberation-fleet"
PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 5.0
STALE_S = 15.0
DRAIN_S = 10.0


def start_local(data_dir: Path) -> str:
    """Starts a Ray head that ends with this process; returns its address. Blocks for some seconds."""
    _keep_quiet()
    token = data_dir / "ray-token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    # Ray listens on every interface: without its token anybody on the network could run code here.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token.read_text()
    context = ray.init(
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        namespace=NAMESPACE,
        num_cpus=os.cpu_count(),
        object_store_memory=80 * 1024 * 1024,
    )
    address: str = context.address_info["address"]
    return address


def stop_local() -> None:
    """Ends the Ray head that `start_local` started, and every actor in it."""
    ray.shutdown()


@ray.remote(max_restarts=-1, max_task_retries=0, max_concurrency=16)
class WorkerActor:
    """Hosts one `AgentWorker`. Ray runs its methods on one event loop."""

    def __init__(self, name: str, fingerprint: str, settings: Settings) -> None:
        self._name = name
        self._fingerprint = fingerprint
        self._settings = settings
        self._worker: Any = None
        self._starting = asyncio.Lock()

    async def probe(self) -> dict[str, Any]:
        """Starts the worker if it is not running (the actor is new, or Ray has started it again); says how it is."""
        from fleet.observability import configure_logging
        from workers.agent import AgentWorker

        async with self._starting:
            if self._worker is None:
                configure_logging("worker")
                # A node may have credentials of its own: a worker may publish what a dispatcher may not.
                worker = AgentWorker(with_own_nats(self._settings, os.environ), self._name)
                await worker.start()
                self._worker = worker
        return {"pid": os.getpid(), "fingerprint": self._fingerprint, **_as_dict(self._worker.status())}

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new, finishes or hands back what is open."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await worker.stop(grace_s)


class RayPool:
    """Launches, sizes and supervises the actors: a `fleet.dispatcher.Launcher`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fingerprint = hashlib.sha256(encode([__version__, settings])).hexdigest()[:12]
        self._task: asyncio.Task[None] | None = None
        self._last_answer: dict[int, float] = {}

    async def start(self) -> None:
        """Joins the cluster and returns once every actor has taken up work."""
        _keep_quiet()
        await asyncio.to_thread(self._join)
        await asyncio.gather(*(self._ensure(index) for index in range(self._settings.workers.count)))
        self._task = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Leaves the cluster; the actors stay."""
        if self._task is not None:
            self._task.cancel()
        if ray.is_initialized():
            await asyncio.to_thread(ray.shutdown)

    async def stop_workers(self) -> None:
        """Drains and ends the actors: for a fleet that goes away as a whole."""
        if not ray.is_initialized():
            await asyncio.to_thread(self._join)
        await asyncio.gather(*(self._end(name) for name in self._names()), return_exceptions=True)

    def healthy(self) -> bool:
        """Whether some actor has answered lately. `ray.is_initialized()` would lie here."""
        now = time.monotonic()
        return any(now - at < STALE_S for at in self._last_answer.values())

    def _join(self) -> None:
        ray.init(
            address=self._settings.ray_address or "auto",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="warning",
        )

    def _names(self) -> list[str]:
        # Several fleets may share a Ray: each is known by its NATS.
        fleet = hashlib.sha256(self._settings.nats.encode()).hexdigest()[:6]
        return [f"fleet-worker-{fleet}-{index}" for index in range(self._settings.workers.count)]

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            await asyncio.gather(*(self._keep(index) for index in range(self._settings.workers.count)))

    async def _keep(self, index: int) -> None:
        try:
            await self._ensure(index)
        except Exception as error:
            log.warning("worker.probe_failed", worker=self._names()[index], error=f"{type(error).__name__}: {error}")

    async def _ensure(self, index: int) -> None:
        """One actor exists, runs this version with these settings, and answers."""
        name = self._names()[index]
        answer = await self._probe(name)
        if answer["fingerprint"] != self._fingerprint:
            log.info("worker.replaced", worker=name)
            await self._end(name)
            answer = await self._probe(name)
        if index not in self._last_answer:
            log.info("worker.ready", worker=name, pid=answer["pid"])
        self._last_answer[index] = time.monotonic()

    async def _probe(self, name: str) -> dict[str, Any]:
        actor = await asyncio.to_thread(self._actor, name)
        async with asyncio.timeout(PROBE_TIMEOUT_S * (1 if self._last_answer else 6)):
            answer: dict[str, Any] = await actor.probe.remote()
        return answer

    def _actor(self, name: str) -> Any:
        workers = self._settings.workers
        return WorkerActor.options(  # type: ignore[attr-defined]
            name=name,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=workers.num_cpus,
        ).remote(name, self._fingerprint, self._settings)

    async def _end(self, name: str) -> None:
        try:
            actor = await asyncio.to_thread(ray.get_actor, name)
        except ValueError:
            return
        try:
            async with asyncio.timeout(DRAIN_S + 2):
                await actor.drain.remote(DRAIN_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.warning("worker.not_drained", worker=name, error=repr(error))
        await asyncio.to_thread(ray.kill, actor)


def _as_dict(status: Any) -> dict[str, Any]:
    return {field: getattr(status, field) for field in status.__struct_fields__}


def _keep_quiet() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
