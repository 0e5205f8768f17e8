"""Launches, probes, kills and ends single actors by their names."""

import asyncio
import hashlib
import sys
from typing import Any

import ray
import structlog

from fleet import __version__
from fleet.config import Settings
from fleet.messages import encode
from fleet.observability.visible import visible
from fleet.own_secrets import secrets_of, without_secrets
from workers.ray_pool.actor import METHODS, WorkerActor
from workers.ray_pool.control_plane import PROBE_TIMEOUT_S
from workers.ray_pool.launcher_generations import Generation
from workers.ray_pool.names import NAMESPACE

log = structlog.get_logger(__name__)

FIRST_PROBE_TIMEOUT_S = 30.0
"""Ray starts the actor's process meanwhile."""
DRAIN_S, ENDED_WITHIN_S = 6.0, 10.0
"""A probe that pauses is over before a drain begins."""


class Actors:
    """Those of one fleet. `watcher`: the id of the dispatcher that probes them."""

    def __init__(self, settings: Settings, launched_by: Generation, watcher: str) -> None:
        self._settings = settings
        self._launched_by = launched_by
        self._watcher = watcher
        self._handles: dict[str, Any] = {}
        self.fingerprint = fingerprint(settings)

    async def probe(self, name: str, pause_s: float, *, is_first: bool) -> dict[str, Any]:
        """How the actor is, after `pause_s`; it is launched if there is none. Raises `RayError`, TimeoutError."""
        async with asyncio.timeout(pause_s + (FIRST_PROBE_TIMEOUT_S if is_first else PROBE_TIMEOUT_S)):
            if name not in self._handles:
                self._handles[name] = await asyncio.to_thread(self._launch, name)
            actor = self._handles[name]
            try:
                pending = actor.probe_after.remote(pause_s, self._watcher) if pause_s else actor.probe.remote()
                answer: dict[str, Any] = await pending
                for line in answer.pop("lines", ()):
                    sys.stderr.write(f"{visible(line)}\n")
            except ray.exceptions.ActorDiedError:
                self.forget(name)  # for good: the next probe launches another
                raise
        return answer

    async def restart(self, name: str) -> bool:
        """Kills the actor's process, for Ray to start it again; whether there was one that this process knows."""
        if (actor := self._handles.get(name)) is None:
            return False
        await asyncio.to_thread(ray.kill, actor, no_restart=False)
        return True

    async def retire(self, name: str, retired: bool) -> int:
        """The actor takes nothing new, or takes calls again; how many it has open. Raises as `probe` does, and
        LookupError where there is none."""
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if (actor := self._handles.get(name)) is None:
                try:
                    actor = self._handles[name] = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
                except ValueError:
                    raise LookupError(name) from None
            try:
                open_calls: int = await actor.retire.remote(retired)
            except ray.exceptions.ActorDiedError:
                self.forget(name)
                raise LookupError(name) from None
        return open_calls

    async def end(self, name: str) -> None:
        """Drains it first."""
        await end(name)
        self.forget(name)

    def forget(self, name: str) -> None:
        self._handles.pop(name, None)

    def arguments(self, name: str) -> tuple[str, str, Generation, Settings]:
        """Ray keeps them, where whoever has its token can read them."""
        return name, self.fingerprint, self._launched_by, without_secrets(self._settings)

    def _launch(self, name: str) -> Any:
        return WorkerActor.options(  # type: ignore[attr-defined]
            name=name,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=self._settings.workers.cpus,
            # Several on one node would all end with it.
            scheduling_strategy="SPREAD" if self._settings.workers.is_elastic else "DEFAULT",
        ).remote(*self.arguments(name))


def fingerprint(settings: Settings) -> str:
    """Of what a worker does, credentials included: an actor with another one is replaced. Made slowly, for it is no
    secret, and passwords could be tried out on it."""
    identity = encode([__version__, METHODS, settings, secrets_of(settings)])
    return hashlib.scrypt(identity, salt=settings.fleet_name.encode(), n=2**14, r=8, p=1, dklen=6).hex()


async def list_names() -> list[str]:
    """Of the actors of all fleets on this Ray. Raises `RayError`."""
    actors = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    return [str(actor["name"]) for actor in actors if actor["namespace"] == NAMESPACE]


async def end(name: str) -> None:
    """Drains the actor, and ends it; nothing to do where there is none."""
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
