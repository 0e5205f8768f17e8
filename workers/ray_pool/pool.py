"""Keeps a fleet's Ray actors running: launches them, probes them, replaces those with other settings.

The actors are named and detached: they outlive the dispatcher that made them, and every dispatcher sees to it that the
same ones exist. JetStream hands out the calls; Ray places actors and starts dead ones again.

How many there are is decided elsewhere and may change (`resize`): the first so many run. Another one takes nothing new,
and ends once its last call has ended; wanted again meanwhile, it just goes on.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ray
import structlog
from msgspec import structs

from fleet import __version__
from fleet.config import Settings
from workers.ray_pool.actors import Actors, list_names
from workers.ray_pool.control_plane import PROBE_INTERVAL_S, ControlPlane
from workers.ray_pool.launcher_generations import UNKNOWN, generation
from workers.ray_pool.names import ActorNames

log = structlog.get_logger(__name__)

RESTARTING_INTERVAL_S = 0.3
"""Between two probes of an actor that Ray is starting again."""
STALE_S = 15.0
LOOK_EVERY_S = 20.0
"""At which actors there are: a list of names."""
FROZEN_AFTER_S = 30.0
"""An actor that does not answer for so long is killed, for Ray to start it again: its calls go to others."""


class RayPool:
    """Launches, sizes and supervises the actors.

    `began_ms`: when the dispatcher began. For a process of its own: Ray ends whoever is joined to a cluster whose
    control plane is away for a minute.
    """

    def __init__(self, settings: Settings, began_ms: int = 0) -> None:
        # Where a dispatcher serves its health is no reason to replace the workers of another.
        settings = structs.replace(settings, health_port=None, health_host=None)
        self._generation = generation(__version__, began_ms)
        self._control_plane = ControlPlane(settings.ray_address)
        self.names = ActorNames(settings.fleet_name, settings.workers.highest)
        self._lowest, self._is_elastic = settings.workers.lowest, settings.workers.is_elastic
        self._wanted: int | None = None if self._is_elastic else settings.workers.highest
        """None: not told yet, and what exists stays."""
        self._existing: frozenset[str] = frozenset()
        self._resized = asyncio.Event()
        self.actors = Actors(settings, self._generation, watcher=uuid.uuid4().hex)
        self._served_at: dict[str, float] = {}
        """When each last said that NATS serves it."""
        self._answered_at: dict[str, float] = {}
        """When each gave its last answer, good or bad; before the first: when it was first asked."""
        self._one_more = asyncio.Event()
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        """Joins the cluster. Raises `Unreachable`."""
        await self._control_plane.join()

    def resize(self, wanted: int) -> None:
        """So many are to run."""
        if wanted != self._wanted:
            log.info("workers.resized", wanted=wanted, before=self._wanted)
            self._wanted = wanted
            self._resized.set()
            self._resized = asyncio.Event()

    def _wants(self, name: str) -> bool:
        if self._wanted is None:
            return name in self.names.first(self._lowest) or name in self._existing
        return name in self.names.first(self._wanted)

    async def supervise(self, report: Callable[[int], None]) -> None:
        """Launches the actors and keeps them up, each for itself: one that finds no room holds up no other.

        Reports how many answered lately, at once when one more does. Raises `Unreachable` without a control plane, and
        whatever one of its parts did not foresee: none of them stops alone.
        """
        parts = [self._report(report), self._look_around(), *(self._keep(name) for name in self.names.own)]
        tasks = [asyncio.create_task(part) for part in (self._control_plane.watch(), *parts)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Leaves the cluster; the actors stay."""
        await self._control_plane.leave()

    async def stop_workers(self) -> None:
        """Drains and ends the actors: for a fleet that goes away as a whole. Raises `Unreachable`."""
        await self.start()
        names = self.names.of_this_fleet(await list_names())
        await asyncio.gather(*(self.actors.end(name) for name in names), return_exceptions=True)
        await self.stop()

    async def _report(self, report: Callable[[int], None]) -> None:
        while True:
            now_s = time.monotonic()
            report(sum(now_s - at < STALE_S for name, at in self._served_at.items() if self._wants(name)))
            self._one_more.clear()
            try:
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await self._one_more.wait()
            except TimeoutError:
                pass

    async def _keep(self, name: str) -> None:
        pause_s = 0.0
        while True:
            try:
                if self._wants(name):
                    await self._ensure(name, pause_s)
                else:
                    await self._dismiss(name)
                pause_s = PROBE_INTERVAL_S
            except Exception as error:
                _probe_failed(name, error)
                pause_s = 0.0
                await asyncio.sleep(RESTARTING_INTERVAL_S)

    async def _ensure(self, name: str, pause_s: float = 0.0) -> None:
        """One actor exists, runs this version with these settings (or a newer dispatcher's), and answers."""
        self._answered_at.setdefault(name, time.monotonic())
        try:
            await self._check(name, pause_s)
            self._answered_at[name] = time.monotonic()
        except TimeoutError:  # the actor's own as well: its main thread answers, and its event loop does not
            if time.monotonic() - self._answered_at[name] >= FROZEN_AFTER_S:
                await self._restart_frozen(name)
            raise
        except ray.exceptions.RayError:  # it answered that it cannot, or Ray that it is being started again
            self._answered_at[name] = time.monotonic()
            raise

    async def _dismiss(self, name: str) -> None:
        """Lets the actor finish its calls and ends it, if it exists; then waits until something has changed."""
        resized = self._resized
        if (name in self._existing or name in self._answered_at) and not await self._open_calls(name):
            log.info("worker.dismissed", worker=name, workers=self._wanted)
            await self.actors.end(name)
            self._forget(name)
        try:
            async with asyncio.timeout(PROBE_INTERVAL_S):
                await resized.wait()
        except TimeoutError:
            pass

    async def _open_calls(self, name: str) -> int:
        """Of an actor that takes nothing new from now on. None of one that is gone, that is frozen, or that has never
        begun: Ray has no room for it, and is to look for none."""
        is_waiting = name in self._answered_at and name not in self._served_at
        since = self._answered_at.setdefault(name, time.monotonic())
        try:
            open_calls = 0 if is_waiting else await self.actors.retire(name, True)
        except LookupError:
            return 0
        except TimeoutError:
            if time.monotonic() - since < FROZEN_AFTER_S:
                raise
            return 0
        self._served_at.setdefault(name, -STALE_S)
        self._answered_at[name] = time.monotonic()
        return open_calls

    def _forget(self, name: str) -> None:
        self.actors.forget(name)
        self._existing -= {name}
        self._served_at.pop(name, None)
        self._answered_at.pop(name, None)

    async def _restart_frozen(self, name: str) -> None:
        """Harmless to one that Ray has no room for: it goes on waiting."""
        self._answered_at[name] = time.monotonic()
        if await self.actors.restart(name):
            log.error("worker.killed", worker=name, reason=f"no answer for {FROZEN_AFTER_S:.0f} s")

    async def _check(self, name: str, pause_s: float) -> None:
        is_first = name not in self._served_at
        answer = await self.actors.probe(name, pause_s, is_first=is_first)
        if self._is_to_be_replaced(answer):
            answer = await self._replace(name)
        if answer.get("draining"):
            await self.actors.retire(name, False)
        if is_first:
            log.info("worker.ready", worker=name, pid=answer["pid"])
            self._one_more.set()
        if answer["last_fetch_age_s"] < STALE_S:
            self._served_at[name] = time.monotonic()
        else:
            log.warning("worker.not_served_by_nats", worker=name, last_fetch_age_s=answer["last_fetch_age_s"])

    def _is_to_be_replaced(self, answer: Mapping[str, Any]) -> bool:
        has_other_settings = bool(answer["fingerprint"] != self.actors.fingerprint)
        return has_other_settings and answer.get("launched_by", UNKNOWN) < self._generation

    async def _replace(self, name: str) -> dict[str, Any]:
        """One after the other: the next one ends once this one answers. Returns its answer."""
        async with self._replacing:
            self._answered_at[name] = time.monotonic()
            answer = await self.actors.probe(name, 0.0, is_first=False)
            if not self._is_to_be_replaced(answer):  # another dispatcher was faster
                return answer
            log.info("worker.replaced", worker=name, reason="other version or settings")
            await self.actors.end(name)
            return await self.actors.probe(name, 0.0, is_first=True)

    async def _look_around(self) -> None:
        """Ends what is beyond the largest number. Other dispatchers launch actors, too, and may end before them: an
        elastic pool looks for those that it may have again and again."""
        await self._end_surplus()
        while self._is_elastic:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._list()

    async def _list(self) -> list[str]:
        """All actors of this fleet; notes which of its own exist. None where Ray does not tell."""
        try:
            names = self.names.of_this_fleet(await list_names())
        except ray.exceptions.RayError as error:
            log.warning("workers.not_listed", error=_in_words(error))
            return []
        self._existing = frozenset(names) & {*self.names.own}
        return names

    async def _end_surplus(self) -> None:
        """Of a fleet that had more actors: ends those above its count that an older dispatcher launched."""
        for name in sorted({*await self._list()} - {*self.names.own}):
            try:
                answer = await self.actors.probe(name, 0.0, is_first=True)
                if answer.get("launched_by", UNKNOWN) < self._generation:
                    log.info("worker.surplus_ended", worker=name, workers=len(self.names.own))
                    await self.actors.end(name)
            except (ray.exceptions.RayError, TimeoutError) as error:
                _probe_failed(name, error)
            self.actors.forget(name)


def _probe_failed(name: str, error: Exception) -> None:
    log.warning("worker.probe_failed", worker=name, error=_in_words(error))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
