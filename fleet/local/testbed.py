"""Runs a whole fleet on this machine for measuring, breaking and testing it, in one of two forms.

`Testbed` makes processes: `fleet up` on servers of its own, a simulated model, further replicas. Benchmarks and fault
injection use it. `in_process` runs the same components in this process, without Ray: tests use it.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from fleet.config import Settings, unconfigured
from fleet.local import ray_head
from fleet.local.data_dir import recall
from fleet.local.supervisor import Child

GRACE_S = 40.0
"""Within which `fleet up`, or a replica, ends."""
MODEL_GRACE_S = 2.0
READY_WITHIN_S = 60.0


class NoWorkers:
    """A `fleet.control.launching.Launcher` of a fleet whose workers somebody else starts."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def resize(self, wanted: int) -> None: ...
    def answering(self) -> int:
        """As if one worker answered."""
        return 1


@asynccontextmanager
async def in_process(settings: Settings, *, worker: Settings | None = None) -> AsyncIterator[None]:
    """A dispatcher and a collector, and with the settings `worker` one worker, all of them ready. They end with it."""
    from fleet.control import collector, dispatcher
    from workers.calls.worker import AgentWorker

    up = (asyncio.Event(), asyncio.Event())
    components = [
        asyncio.create_task(dispatcher.run(settings, NoWorkers(), on_ready=up[0].set)),
        asyncio.create_task(collector.run(settings, on_ready=up[1].set)),
    ]
    try:
        await _all_ready(up, components)
        async with AsyncExitStack() as stack:
            if worker is not None:
                await stack.enter_async_context(AgentWorker.open(worker, "worker-in-process"))
            yield
    finally:
        for component in components:
            component.cancel()
        await asyncio.gather(*components, return_exceptions=True)


async def _all_ready(up: Iterable[asyncio.Event], components: Iterable[asyncio.Task[None]]) -> None:
    """Raises what has ended one of them before."""
    ready = asyncio.gather(*(event.wait() for event in up))
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            waiting: list[asyncio.Future[Any]] = [ready, *components]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for component in components:
            if component.done():
                component.result()
    finally:
        ready.cancel()


class Testbed:
    """Makes the children of one fleet. Whoever uses it starts and stops them.

    `where` tells NATS_URL, VLLM_URL and whatever else configures the fleet; it is asked before each start.
    """

    def __init__(self, data_dir: Path, config: str, where: Callable[[], Mapping[str, str]]) -> None:
        self.data_dir = data_dir
        self.logs = data_dir / "logs"
        self._config = config
        self._where = where

    def prepare(self) -> None:
        """Makes the folders, and writes the fleet's configuration."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._config_file.write_text(self._config)

    def environ(self) -> dict[str, str]:
        """Nothing of ours that would configure a fleet otherwise."""
        own = {"AGENT_TYPE": "vllm", "FLEET_NAME": "fleet", "FLEET_CONFIG": str(self._config_file)}
        return {**unconfigured(os.environ), **own, **self._where()}

    def child(self, name: str, command: Callable[[], Sequence[str]]) -> Child:
        """A process with the fleet's environment; its log is `logs/<name>.log`."""
        return Child(name, command, environ=self.environ, log_file=self.logs / f"{name}.log")

    def fleet_up(self) -> Child:
        """`fleet up`."""
        directory = str(self._fleet_dir)
        command = [sys.executable, "-m", "fleet.cli", "up", "--json", "--data-dir", directory]
        return self.child("fleet-up", lambda: command)

    def simulator(self, arguments: Callable[[], Sequence[str]]) -> Child:
        """The simulated model server; `arguments` are asked before each start."""
        return self.child("simulator", lambda: [sys.executable, "-m", "workers.simulator", *arguments()])

    def replica(self, name: str, *command: str, more: Callable[[], Mapping[str, str]] = dict) -> Child:
        """One more process of the fleet that `fleet_up` has started: it joins its Ray. `more`: of its next start."""

        def environ() -> dict[str, str]:
            ray = {"RAY_ADDRESS": recall(self._fleet_dir).get("ray_address") or ""}
            return {**self.environ(), **ray, **ray_head.credentials(self._fleet_dir), **more()}

        log_file = self.logs / f"{name}.log"
        return Child(name, lambda: [sys.executable, *command], environ=environ, log_file=log_file)

    @property
    def _config_file(self) -> Path:
        return self.data_dir / "fleet.toml"

    @property
    def _fleet_dir(self) -> Path:
        return self.data_dir / "fleet"
