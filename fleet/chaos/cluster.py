"""Starts the fleet that is broken: `fleet up` behind a proxy, and a second dispatcher, collector and worker.

Everything runs on loopback, and every process is a descendant of this one: nothing else is ever signalled.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp
import psutil

from fleet import crashpoints, subjects
from fleet.chaos.nats_servers import MAX_PAYLOAD_OF_TENANTS, NatsServers
from fleet.chaos.proxy import Proxy
from fleet.chaos.tenants.accounts import TENANTS, accounts
from fleet.local.ports import free_port, is_free
from fleet.local.process_titles import descendants, is_a
from fleet.local.startable import Startable
from fleet.local.supervisor import Child
from fleet.local.testbed import GRACE_S, MODEL_GRACE_S, Testbed
from fleet.tenants.names import requests_of

ACK_WAIT_S = 9.0
PR_SET_CHILD_SUBREAPER = 36
SIZES = "\n".join(
    f'[streams.{name}]\nmax_bytes = "{size}MiB"'
    for name, size in {
        subjects.DELIBERATION_REQUESTS: 16,
        subjects.DELIBERATION_CONTROL: 16,
        subjects.AGENT_REQUESTS: 32,
        subjects.DEAD_LETTERS: 16,
        subjects.DELIBERATIONS: 96,
        subjects.AGENT_RESPONSES: 128,
        subjects.STATES: 320,
        subjects.TEXTS_STREAM: 320,
        subjects.ANSWERS_STREAM: 16,
    }.items()
)
"""All of it is set aside, and fits."""
PACE = ("--latency-ms", "100", "--tokens-per-second", "150", "--recorded-calls", "1000000")

SIZE_OF_TENANTS = "8MiB"
"""Of each tenant's requests, and of the counters."""
OF_TENANTS = "\n".join(
    [f"[tenants.{tenant}]" for tenant in TENANTS]
    + [
        f'[streams.{name}]\nmax_bytes = "{SIZE_OF_TENANTS}"'
        for name in (subjects.TENANT_TOKENS, *map(requests_of, TENANTS))
    ]
)

CONFIG = f"""\
[workers]
min = 1
max = 3
shrink_after_s = 10
calls_per_worker = 24
num_cpus = 0.1
ack_wait_s = {ACK_WAIT_S}
stall_timeout_s = 5

{SIZES}
{OF_TENANTS}
"""

WHOLE: Final[Mapping[str, int]] = {"dispatcher": 2, "collector": 2, "actor": 1, "raylet": 1, "gcs": 1, "nats": 1}
"""What runs at least when nothing is broken: there are more actors while there is work for them."""
LOOK_S, READY_WITHIN_S = 0.5, 2.0


class Cluster(Startable):
    """`async with Cluster(data_dir) as cluster:` everything answers inside; nothing is left afterwards."""

    def __init__(self, data_dir: Path, nats_servers: int = 1) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.health_ports = _health_ports()
        self._bed = Testbed(data_dir, f"{CONFIG}\n[limits]\nreplicas = {nats_servers}\n", self._where)
        self.logs = self._bed.logs
        self.nats = NatsServers(data_dir, nats_servers, accounts(MAX_PAYLOAD_OF_TENANTS))
        self._whole = {**WHOLE, "nats": nats_servers}
        self.model = self._bed.simulator(self._simulator)
        self.up = self._bed.fleet_up()
        self.replicas = {
            "dispatcher": self._replica("dispatcher", "-m", "fleet.cli", "dispatcher"),
            "collector": self._replica("collector", "-m", "fleet.cli", "collector"),
            "worker": self._replica("worker", "-m", "fleet.chaos.worker"),
        }
        self.proxy = Proxy()
        self.vllm_url = ""
        self.leaked: list[str] = []
        self._once: dict[str, dict[str, str]] = {}

    async def __aexit__(self, *_: object) -> None:
        for process in descendants():  # what is stopped could not be ended
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        await super().__aexit__()
        self.leaked = await asyncio.to_thread(_end_what_is_left)

    async def _start(self) -> None:
        _adopt_orphans()
        self._bed.prepare()
        self._stack.push_async_callback(self.nats.stop)
        await self.nats.start()
        self.proxy.upstreams = tuple(self.nats.ports)
        await self.proxy.start()
        self._stack.push_async_callback(self.proxy.stop)
        self._stack.push_async_callback(self.model.stop, MODEL_GRACE_S)
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
            running = {kind: len(await asyncio.to_thread(self.pids, kind)) for kind in self._whole}
            if all(running[kind] >= count for kind, count in self._whole.items()) or time.monotonic() > until:
                return running
            await asyncio.sleep(LOOK_S)

    async def ready(self, kind: str) -> bool:
        """Whether all dispatchers, or all collectors, say that they are ready."""
        ports = [port for name, port in self.health_ports.items() if name.startswith(kind)]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READY_WITHIN_S)) as http:
            try:
                statuses = [(await http.get(f"http://127.0.0.1:{port}/readyz")).status for port in ports]
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False
        return all(status == 200 for status in statuses)

    def once(self, name: str, **environ: str) -> Child:
        """The replica `name`, whose next start has `environ`: it must be ended to take effect."""
        self._once[name] = environ
        return self.replicas[name]

    def _replica(self, name: str, *command: str) -> Child:
        port = self.health_ports.get(f"{name}-2")
        health = {} if port is None else {"FLEET_HEALTH_PORT": str(port)}
        return self._bed.replica(f"{name}-2", *command, more=lambda: {**health, **self._once.pop(name, {})})

    def _where(self) -> dict[str, str]:
        return {
            "NATS_URL": self.proxy.url,
            "VLLM_URL": self.vllm_url,
            "FLEET_LOG": "json",
            "FLEET_HEALTH_PORT": str(self.health_ports["dispatcher"]),
            "FLEET_HEALTH_HOST": "127.0.0.1",
        }

    def _simulator(self) -> list[str]:
        return ["--port", self.vllm_url.rpartition(":")[2] or "0", *PACE]


def replica_for(point: str) -> str:
    """The replica that reaches a crash point."""
    if point in crashpoints.WORKER:
        return "worker"
    return "dispatcher" if point in crashpoints.DISPATCHER else "collector"


def _health_ports() -> dict[str, int]:
    """By process. The collector of `fleet up` has the port after the dispatcher's."""
    while True:
        first = free_port()
        ports = {
            "dispatcher": first,
            "collector": first + 1,
            "dispatcher-2": free_port(),
            "collector-2": free_port(),
        }
        if is_free(first + 1) and len({*ports.values()}) == len(ports):
            return ports


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
