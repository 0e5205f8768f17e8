"""The fleet that gets broken: `fleet up` behind a proxy, and a second dispatcher, collector and worker beside it.

Everything runs on loopback, and every process is a descendant of this one: nothing else is ever signalled.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, Self

import psutil

from fleet import crashpoints
from fleet.chaos.proxy import Proxy
from fleet.config import unconfigured
from fleet.local import ray_head
from fleet.local.data_dir import recall
from fleet.local.nats_server import EmbeddedNats
from fleet.local.process_titles import descendants, is_a
from fleet.local.supervisor import Child

GRACE_S = 40.0
ACK_WAIT_S = 9.0
PR_SET_CHILD_SUBREAPER = 36
MAX_PAYLOAD = "128KB"
"""Small, so that long texts travel by reference."""
MAX_STORE_BYTES = 512 * 1024 * 1024
"""Soon full, when it is filled on purpose."""
PACE = ("--latency-ms", "100", "--tokens-per-second", "150", "--recorded-calls", "1000000")

CONFIG = f"""\
[workers]
count = 2
calls_per_worker = 64
ack_wait_s = {ACK_WAIT_S}
stall_timeout_s = 5
"""

WHOLE: Final[Mapping[str, int]] = {"dispatcher": 2, "collector": 2, "actor": 2, "raylet": 1, "gcs": 1, "nats": 1}
"""What runs when nothing is broken."""
LOOK_S = 0.5


class Cluster:
    """`async with Cluster(data_dir) as cluster:` everything answers inside; nothing is left afterwards."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.logs = data_dir / "logs"
        self.nats = EmbeddedNats(data_dir, max_payload=MAX_PAYLOAD, max_store_bytes=MAX_STORE_BYTES)
        self.model = Child("simulator", self._simulator, log_file=self.logs / "simulator.log")
        self.up = Child("fleet-up", self._fleet_up, environ=self._environ, log_file=self.logs / "fleet-up.log")
        self.replicas = {
            "dispatcher": self._replica("dispatcher", "-m", "fleet.cli", "dispatcher"),
            "collector": self._replica("collector", "-m", "fleet.cli", "collector"),
            "worker": self._replica("worker", "-m", "fleet.chaos.worker"),
        }
        self.proxy: Proxy
        self.vllm_url = ""
        self.leaked: list[str] = []
        self._once: dict[str, dict[str, str]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        _adopt_orphans()
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in descendants():  # what is stopped could not be ended
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        await self._stack.aclose()
        self.leaked = await asyncio.to_thread(_end_what_is_left)

    async def _start(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "chaos.toml").write_text(CONFIG)
        self._stack.push_async_callback(self.nats.stop)
        await self.nats.start()
        self.proxy = Proxy(int(self.nats.url.rpartition(":")[2]))
        await self.proxy.start()
        self._stack.push_async_callback(self.proxy.stop)
        self._stack.push_async_callback(self.model.stop, 2.0)
        self.vllm_url = await self.model.start()
        self._stack.push_async_callback(self.up.stop, GRACE_S)
        await self.up.start()
        for replica in self.replicas.values():
            self._stack.push_async_callback(replica.stop, GRACE_S)
        await asyncio.gather(*(replica.start() for replica in self.replicas.values()))

    def pids(self, target: str) -> list[int]:
        """Processes of one kind that run now, oldest first. `actors` are all of them, the one without Ray too."""
        if target == "actors":
            return [*self.pids("actor"), *self.pids_of(self.replicas["worker"])]
        found = [process for process in descendants() if is_a(process, target)]
        return [process.pid for process in sorted(found, key=psutil.Process.create_time)]

    def pids_of(self, child: Child) -> list[int]:
        """Its process, if it runs."""
        return [process.pid for process in descendants() if process.pid == child.pid]

    async def until_whole(self, within_s: float) -> dict[str, int]:
        """Waits until everything that belongs to the fleet runs; returns how many of each kind do."""
        until = time.monotonic() + within_s
        while True:
            running = {kind: len(await asyncio.to_thread(self.pids, kind)) for kind in WHOLE}
            if all(running[kind] >= count for kind, count in WHOLE.items()) or time.monotonic() > until:
                return running
            await asyncio.sleep(LOOK_S)

    def once(self, name: str, **environ: str) -> Child:
        """The replica `name`, whose next start has `environ`: it must be ended to take effect."""
        self._once[name] = environ
        return self.replicas[name]

    def _replica(self, name: str, *command: str) -> Child:
        def environ() -> dict[str, str]:
            directory = self.data_dir / "fleet"
            ray = {"RAY_ADDRESS": recall(directory).get("ray_address") or "", **ray_head.credentials(directory)}
            return {**self._environ(), **ray, **self._once.pop(name, {})}

        log_file = self.logs / f"{name}-2.log"
        return Child(f"{name}-2", lambda: [sys.executable, *command], environ=environ, log_file=log_file)

    def _environ(self) -> dict[str, str]:
        """Nothing of ours that would configure a fleet."""
        return {
            **unconfigured(os.environ),
            "NATS_URL": self.proxy.url,
            "VLLM_URL": self.vllm_url,
            "AGENT_TYPE": "vllm",
            "FLEET_CONFIG": str(self.data_dir / "chaos.toml"),
            "FLEET_LOG": "json",
        }

    def _fleet_up(self) -> list[str]:
        return [sys.executable, "-m", "fleet.cli", "up", "--json", "--data-dir", str(self.data_dir / "fleet")]

    def _simulator(self) -> list[str]:
        port = self.vllm_url.rpartition(":")[2] or "0"
        return [sys.executable, "-m", "workers.simulator", "--port", port, *PACE]


def replica_for(point: str) -> str:
    """The replica that reaches a crash point."""
    if point in crashpoints.WORKER:
        return "worker"
    return "dispatcher" if point in crashpoints.DISPATCHER else "collector"


def _adopt_orphans() -> None:
    """On Linux a process whose parent is killed becomes our child, so that it can be found, and ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end_what_is_left() -> list[str]:
    """Gives what still ends a moment, then kills; returns what had to be killed."""
    _, alive = psutil.wait_procs(list(descendants()), timeout=10)
    left = []
    for process in alive:
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
                process.kill()
    psutil.wait_procs(alive, timeout=5)
    with suppress(ChildProcessError):  # the adopted dead: nobody else would take note of them
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return left
