"""Long-lived Ray actors that take agent calls from JetStream. The only module that imports ray.

The actors are named and detached: they outlive the dispatcher that made them, and every dispatcher sees to it that the
same ones exist. JetStream hands out the calls; Ray places actors and starts dead ones again.
"""

import asyncio
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
import structlog
from msgspec import structs

from fleet import __version__
from fleet.config import Settings, secrets_of, with_own_secrets, without_secrets
from fleet.errors import Unreachable
from fleet.messages import encode
from fleet.observability.visible import visible
from workers.ray_pool.launcher_generations import UNKNOWN, Generation, generation

log = structlog.get_logger(__name__)

NAMESPACE = "deliberation-fleet"
PREFIX = "fleet-worker"
PROBE_INTERVAL_S = 2.0
RESTARTING_INTERVAL_S = 0.3
"""Between two looks at an actor that Ray is starting again."""
PROBE_TIMEOUT_S = 5.0
STALE_S = 15.0
FROZEN_AFTER_S = 30.0
"""An actor that does not answer for so long is killed, for Ray to start it again: its calls go to others."""
DRAIN_S, ENDED_WITHIN_S = 6.0, 10.0
"""A probe that pauses is over before a drain begins."""
CONNECT_TIMEOUT_S = 2.0
LOST_AFTER = 2
"""Failed looks at Ray's control plane in a row."""
METHODS = 2
"""Version of what a dispatcher calls in an actor: those with another one are replaced."""


def start_local(temp_dir: str) -> str:
    """Starts a Ray head that ends with this process; returns its address. Blocks for some seconds."""
    _keep_quiet()
    context = ray.init(
        "local",  # without it Ray joins whatever else runs, or ran, on this machine
        _node_ip_address="127.0.0.1",
        _temp_dir=temp_dir,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        namespace=NAMESPACE,
        num_cpus=os.cpu_count(),
        object_store_memory=80 * 1024 * 1024,
    )
    address: str = context.address_info["address"]
    return address


async def stop_local() -> None:
    """Drains every worker of the Ray head that `start_local` started, and ends it."""
    named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    workers = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
    await asyncio.gather(*(_end(name) for name in workers), return_exceptions=True)
    await asyncio.to_thread(ray.shutdown)


@ray.remote(max_restarts=-1, max_task_retries=0)
class WorkerActor:
    """Hosts one `AgentWorker`. Ray runs its methods one after the other, on the main thread of the process."""

    def __init__(self, name: str, fingerprint: str, launched_by: Generation, settings: Settings) -> None:
        from fleet.observability.logs import configure_logging
        from workers.ray_pool.told_lines import ToldLines
        from workers.ray_pool.worker_thread import Host, Pauses

        sys.stderr = self._lines = ToldLines(sys.stderr)
        configure_logging("worker")
        # The node supplies credentials: a worker may publish what a dispatcher may not, and need not know its secrets.
        self._host = Host(with_own_secrets(settings, os.environ), name)
        self._fingerprint = fingerprint
        self._launched_by = launched_by
        self._pauses = Pauses(STALE_S)

    def probe(self) -> dict[str, Any]:
        """Starts the worker if it is not running (the actor is new, or Ray has started it again); says how it is."""
        status = self._host.status()
        return {
            "pid": os.getpid(),
            "fingerprint": self._fingerprint,
            "launched_by": self._launched_by,
            **{field: getattr(status, field) for field in status.__struct_fields__},
        }

    def probe_after(self, pause_s: float, watcher: str) -> dict[str, Any]:
        """`probe`, after a pause that all who watch share.

        A pause here and not there: Ray wakes a main thread that has nothing to run a hundred times a second, which
        costs more than everything else that a worker does at rest.
        """
        time.sleep(self._pauses.share_s(watcher, pause_s, time.monotonic()))
        return {**self.probe(), "lines": self._lines.new_for(watcher)}

    def drain(self, grace_s: float) -> None:
        """Takes nothing new, finishes or hands back what is open."""
        self._host.stop(grace_s)


class RayPool:
    """Launches, sizes and supervises the actors.

    `began_ms`: when the dispatcher began. For a process of its own: Ray ends whoever is joined to a cluster whose
    control plane is away for a minute.
    """

    def __init__(self, settings: Settings, began_ms: int = 0) -> None:
        # Where a dispatcher serves its health is no reason to replace the workers of another.
        self._settings = settings = structs.replace(settings, health_port=None, health_host=None)
        self._generation = generation(__version__, began_ms)
        self._fingerprint = _fingerprint(settings)
        self._prefix = f"{PREFIX}-{settings.fleet_name}-"
        self._names = [f"{self._prefix}{index}" for index in range(settings.workers.count)]
        self._actors: dict[str, Any] = {}
        self._last_answer: dict[str, float] = {}
        self._one_more = asyncio.Event()
        self._answered: dict[str, float] = {}
        """When each gave its last answer, good or bad; before the first: when it was first asked."""
        self._watcher = uuid.uuid4().hex

    async def start(self) -> None:
        """Joins the cluster. Raises `Unreachable`."""
        await self._join()

    async def supervise(self, report: Callable[[int], None]) -> None:
        """Launches the actors and keeps them up, each for itself: one that finds no room holds up no other.

        Reports how many answered lately, at once when one more does. Raises `Unreachable` without a control plane.
        """
        work = [self._report(report), self._end_surplus(), *(self._keep(name) for name in self._names)]
        tasks = [asyncio.create_task(one) for one in (self._watch_control_plane(), *work)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Leaves the cluster; the actors stay."""
        await asyncio.to_thread(ray.shutdown)

    async def stop_workers(self) -> None:
        """Drains and ends the actors: for a fleet that goes away as a whole. Raises `Unreachable`."""
        await self._join()
        await asyncio.gather(*(_end(name) for name in await self._all_names()), return_exceptions=True)
        await self.stop()

    async def _join(self) -> None:
        await self._reach_control_service()  # Ray itself would take a minute to say no
        _keep_quiet()
        address = self._settings.ray_address or "auto"
        await asyncio.to_thread(
            ray.init, address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="warning"
        )

    async def _report(self, report: Callable[[int], None]) -> None:
        while True:
            now = time.monotonic()
            report(sum(now - at < STALE_S for at in self._last_answer.values()))
            self._one_more.clear()
            try:
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await self._one_more.wait()
            except TimeoutError:
                pass

    async def _watch_control_plane(self) -> None:
        """Actors work on without it, but nothing is started again. `ray.is_initialized()` would lie."""
        failures = 0
        while failures < LOST_AFTER:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await self._probe_control_plane()
                failures = 0
            except (ray.exceptions.RayError, Unreachable, TimeoutError) as error:
                failures += 1
                log.error("ray.probe_failed", failures=failures, error=f"{type(error).__name__}: {error}")
        raise Unreachable("Ray's control plane is gone")

    async def _probe_control_plane(self) -> None:
        """The control service answers, and the raylet of this node is there."""
        await self._reach_control_service()
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            nodes = await asyncio.to_thread(ray.nodes)
        own = ray.get_runtime_context().get_node_id()
        here = next((node for node in nodes if node["NodeID"] == own), None)
        if here is None or not here["Alive"]:
            raise Unreachable("the raylet of this node is dead")
        await _reach("the raylet of this node", here["NodeManagerAddress"], here["NodeManagerPort"])

    async def _reach_control_service(self) -> None:
        host, _, port = (self._settings.ray_address or "").rpartition(":")
        if host and "/" not in host:  # neither `auto` nor `ray://…`
            await _reach("Ray's control service", host, port)

    async def _keep(self, name: str) -> None:
        pause_s = 0.0
        while True:
            try:
                await self._ensure(name, pause_s)
                pause_s = PROBE_INTERVAL_S
            except Exception as error:
                log.warning("worker.probe_failed", worker=name, error=f"{type(error).__name__}: {error}"[:300])
                pause_s = 0.0
                await asyncio.sleep(RESTARTING_INTERVAL_S)

    async def _ensure(self, name: str, pause_s: float = 0.0) -> None:
        """One actor exists, runs this version with these settings (or a newer dispatcher's), and answers."""
        self._answered.setdefault(name, time.monotonic())
        try:
            await self._look_at(name, pause_s)
            self._answered[name] = time.monotonic()
        except TimeoutError:  # the actor's own as well: its main thread answers, and its event loop does not
            if time.monotonic() - self._answered[name] >= FROZEN_AFTER_S:
                await self._kill_frozen(name)
            raise
        except ray.exceptions.RayError:  # it answered that it cannot, or Ray that it is being started again
            self._answered[name] = time.monotonic()
            raise

    async def _kill_frozen(self, name: str) -> None:
        """Harmless to one that Ray has no room for: it goes on waiting."""
        self._answered[name] = time.monotonic()
        if (actor := self._actors.get(name)) is not None:
            log.error("worker.killed", worker=name, silent_s=FROZEN_AFTER_S)
            await asyncio.to_thread(ray.kill, actor, no_restart=False)

    async def _look_at(self, name: str, pause_s: float) -> None:
        answer = await self._probe(name, pause_s)
        if answer["fingerprint"] != self._fingerprint and answer.get("launched_by", UNKNOWN) < self._generation:
            log.info("worker.replaced", worker=name)
            await _end(name)
            self._actors.pop(name, None)
            answer = await self._probe(name, 0.0)
        if name not in self._last_answer:
            log.info("worker.ready", worker=name, pid=answer["pid"])
            self._one_more.set()
        if answer["last_fetch_age_s"] < STALE_S:
            self._last_answer[name] = time.monotonic()
        else:
            log.warning("worker.silent", worker=name, last_fetch_age_s=answer["last_fetch_age_s"])

    async def _end_surplus(self) -> None:
        """Of a fleet that had more actors: those that an older dispatcher launched, and ours are without."""
        try:
            surplus = sorted({*await self._all_names()} - {*self._names})
        except ray.exceptions.RayError as error:
            log.warning("workers.not_listed", error=f"{type(error).__name__}: {error}"[:300])
            return
        for name in surplus:
            try:
                answer = await self._probe(name, 0.0)
                if answer.get("launched_by", UNKNOWN) < self._generation:
                    log.info("worker.surplus", worker=name)
                    await _end(name)
            except (ray.exceptions.RayError, TimeoutError) as error:
                log.warning("worker.probe_failed", worker=name, error=f"{type(error).__name__}: {error}"[:300])
            self._actors.pop(name, None)

    async def _all_names(self) -> list[str]:
        """Of the actors that this fleet has, however many it should have."""
        named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = (str(actor["name"]) for actor in named if actor["namespace"] == NAMESPACE)
        # Another fleet's name may begin with this one's.
        return [name for name in names if name.startswith(self._prefix) and name[len(self._prefix) :].isdecimal()]

    async def _probe(self, name: str, pause_s: float) -> dict[str, Any]:
        async with asyncio.timeout(pause_s + PROBE_TIMEOUT_S * (1 if name in self._last_answer else 6)):
            if name not in self._actors:
                self._actors[name] = await asyncio.to_thread(self._actor, name)
            actor = self._actors[name]
            try:
                answering = actor.probe_after.remote(pause_s, self._watcher) if pause_s else actor.probe.remote()
                answer: dict[str, Any] = await answering
                for line in answer.pop("lines", ()):
                    sys.stderr.write(f"{visible(line)}\n")
            except ray.exceptions.ActorDiedError:
                del self._actors[name]  # for good: the next look makes another
                raise
        return answer

    def _actor(self, name: str) -> Any:
        workers = self._settings.workers
        return WorkerActor.options(  # type: ignore[attr-defined]
            name=name,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=workers.num_cpus,
        ).remote(*self._arguments(name))

    def _arguments(self, name: str) -> tuple[str, str, Generation, Settings]:
        """Ray keeps them, where whoever has its token can read them."""
        return name, self._fingerprint, self._generation, without_secrets(self._settings)


def _fingerprint(settings: Settings) -> str:
    """Of what a worker does, credentials included: an actor with another one is replaced. Made slowly, for it is no
    secret, and passwords could be tried out on it."""
    made_of = encode([__version__, METHODS, settings, secrets_of(settings)])
    return hashlib.scrypt(made_of, salt=settings.fleet_name.encode(), n=2**14, r=8, p=1, dklen=6).hex()


async def _end(name: str) -> None:
    try:
        actor = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
    except ValueError:
        return
    try:
        async with asyncio.timeout(ENDED_WITHIN_S):
            await actor.drain.remote(DRAIN_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        log.warning("worker.not_drained", worker=name, error=repr(error))
    await asyncio.to_thread(ray.kill, actor)


async def _reach(what: str, host: str, port: str | int) -> None:
    """Raises `Unreachable` where nobody listens."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError, ValueError) as error:
        raise Unreachable(f"{what} does not answer at {host}:{port} ({error or type(error).__name__})") from None
    writer.close()


def _keep_quiet() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
