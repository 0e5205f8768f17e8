"""Puts a fleet on machines of its own: three NATS servers, three Ray nodes, two dispatchers and collectors, a model.

As on Kubernetes, without Kubernetes: the shipped configuration of NATS with its users, the same settings of the fleet,
`with-ray-node` around each dispatcher, and the same signs of readiness.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from fleet.config import unconfigured
from fleet.local.ray_head import QUIET
from tests.nodes.machines import Machine, Network, Program
from tests.support.repository.deploy import DEPLOY, PASSWORDS
from tests.support.waiting import until

READY_WITHIN_S = 240.0
LOOK_S = 0.5
AGAIN_AFTER_S = 2.0
NATS = ("nats-0", "nats-1", "nats-2")
RAY = ("ray-0", "ray-1", "ray-2")
"""The first is the head."""
CONTROL = ("control-0", "control-1")
COMPONENTS = ("dispatcher", "collector")
"""One of each on each machine of `CONTROL`."""
NUMBERS = {name: number for number, name in enumerate((*NATS, *RAY, *CONTROL, "model"), 11)}
WORKERS = 3
CONFIG = f"""[limits]
replicas = {len(NATS)}

[workers]
count = {WORKERS}
num_cpus = 1
calls_per_worker = 64
"""
MODEL = ("--host=0.0.0.0", "--port=8000", "--latency-ms=100", "--tokens-per-second=150")
RAY_NODE = ("--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats", "--block")
TOKEN = "t" * 64
BINARIES = str(Path(sys.executable).parent)


class Service:
    """One program of the fleet on its machine. `port`, `path`: what answers 200 once it is ready."""

    def __init__(
        self, name: str, machine: Machine, command: tuple[str, ...], environ: Mapping[str, str], port: int, path: str
    ) -> None:
        self.name = name
        self.machine = machine
        self._command = command
        self._environ = environ
        self._ready = f"http://{machine.address}:{port}{path}"
        self._program: Program | None = None
        self._kept: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Whenever it ends by itself it is started again, as a container is."""
        self._program = await self._run()
        self._kept = asyncio.create_task(self._keep(self._program))

    def leave(self) -> None:
        """It is not started again."""
        if self._kept is not None:
            self._kept.cancel()

    async def ready(self) -> None:
        try:
            await until(self.is_ready, READY_WITHIN_S, LOOK_S)
        except TimeoutError:
            raise AssertionError(f"{self.name} is not ready: see {self.machine.folder}") from None

    async def is_ready(self) -> bool:
        return await answer(self._ready) is not None

    async def said(self) -> dict[str, Any] | None:
        """What it says where it is asked whether it is ready; None while it is not."""
        found = await answer(self._ready)
        return None if found is None else dict(json.loads(found))

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.leave()
        if self._program is not None:
            await self._program.end(how)

    async def _run(self) -> Program:
        return await self.machine.run(self.name, *self._command, environ=self._environ)

    async def _keep(self, program: Program) -> None:
        while True:
            await program.wait()
            await asyncio.sleep(AGAIN_AFTER_S)
            self._program = program = await self._run()


async def answer(url: str) -> bytes | None:
    """The body of a 200; None for another status, and for silence."""
    try:
        within = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=within) as http, http.get(url) as reply:
            return await reply.read() if reply.status == 200 else None
    except (aiohttp.ClientError, OSError):
        return None


class Cluster:
    """The machines by name, and what runs on them: `nats-0` …, `ray-0` …, `dispatcher-0`, `collector-0` …, `model`."""

    def __init__(self, machines: dict[str, Machine], private: Path) -> None:
        self.machines = machines
        self._private = private
        addresses = {name: machine.address for name, machine in machines.items()}
        config = machines["model"].folder.parent / "fleet.toml"
        config.write_text(CONFIG)
        self._common = {
            **unconfigured(os.environ),
            **QUIET,
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "NATS_URL": ",".join(f"nats://{addresses[name]}:4222" for name in NATS),
            "VLLM_URL": f"http://{addresses['model']}:8000",
            "FLEET_CONFIG": str(config),
            "FLEET_LOG": "json",
            "RAY_ADDRESS": f"{addresses[RAY[0]]}:6379",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "20",
        }
        self.services = {
            service.name: service
            for service in (
                *map(self._nats, NATS),
                self._model(),
                *map(self._ray, RAY),
                *(self._component(kind, name) for name in CONTROL for kind in COMPONENTS),
            )
        }

    def url(self, user: str = "client") -> str:
        """Of all NATS servers."""
        login = f"{user}:{PASSWORDS[f'NATS_{user.upper()}_PASSWORD']}"
        return ",".join(f"nats://{login}@{self.machines[name].address}:4222" for name in NATS)

    def components(self, *kinds: str) -> list[str]:
        """Names of the dispatchers and collectors, or of one kind of them."""
        return [name for name in self.services if name.startswith(kinds or COMPONENTS)]

    async def start(self) -> None:
        """NATS and Ray's head first, or the others would only wait for them."""
        for names in ((*NATS, "model", RAY[0]), RAY[1:], self.components()):
            await asyncio.gather(*(self.services[name].start() for name in names))
            await asyncio.gather(*(self.services[name].ready() for name in names))
        await self.whole()

    async def whole(self) -> None:
        """Waits until everything is ready, and each worker answers."""
        await self.ready()
        await self.workers_answer(True)

    async def ready(self, *absent: str) -> None:
        """Waits until everything is, apart from what runs on the machines that are `absent`."""
        here = [each for each in self.services.values() if each.machine.name not in absent]
        await asyncio.gather(*(each.ready() for each in here))

    async def workers_answer(self, wanted: bool) -> None:
        """Waits until each dispatcher says that all of them do, or that some do not."""

        async def told(service: Service) -> bool:
            said = await service.said()
            return said is not None and bool(said["ready"]) and ("workers" not in said["details"]) == wanted

        dispatchers = [self.services[name] for name in self.components("dispatcher")]
        await asyncio.gather(*(until(lambda each=each: told(each), READY_WITHIN_S, LOOK_S) for each in dispatchers))

    async def lose(self, machine: str) -> None:
        """At once, with all that runs there."""
        for service in self._on(machine):
            service.leave()
        await self.machines[machine].lose()

    async def replace(self, machine: str) -> None:
        """Another machine in the place of one that was lost, with the same disk and the same services."""
        await self.machines[machine].start()
        await asyncio.gather(*(service.start() for service in self._on(machine)))

    def stop(self) -> None:
        """Nothing is started again from now on."""
        for service in self.services.values():
            service.leave()

    def _on(self, machine: str) -> list[Service]:
        return [service for service in self.services.values() if service.machine.name == machine]

    def _service(self, name: str, machine: str, *command: str, port: int, path: str, **environ: str) -> Service:
        return Service(name, self.machines[machine], command, {**self._common, **environ}, port, path)

    def _nats(self, name: str) -> Service:
        routes = {
            f"NATS_ROUTE_{number}": f"nats://route:{PASSWORDS['NATS_ROUTE_PASSWORD']}@{self.machines[each].address}:6222"
            for number, each in enumerate(NATS)
        }
        folder = self.machines[name].folder
        for file in (DEPLOY / "nats").glob("*.conf"):
            (folder / file.name).write_text(file.read_text().replace('"/data"', f'"{folder}/data"'))
        command = ("nats-server", "--config", str(folder / "nats-cluster.conf"))
        path = "/healthz?js-server-only=true"
        return self._service(name, name, *command, port=8222, path=path, SERVER_NAME=name, **routes, **PASSWORDS)

    def _model(self) -> Service:
        command = (sys.executable, "-m", "workers.simulator", *MODEL)
        return self._service("model", "model", *command, port=8000, path="/health")

    def _ray(self, name: str) -> Service:
        where = (
            ("--head", "--port=6379", f"--temp-dir={self._private}/ray", "--include-dashboard=false")
            if name == RAY[0]
            else (f"--address={self._common['RAY_ADDRESS']}",)
        )
        return self._service(
            *(name, name, "ray", "start", *where, *RAY_NODE),
            port=52365,
            path="/api/local_raylet_healthz",
            **_login("worker"),
        )

    def _component(self, kind: str, machine: str) -> Service:
        command = ("fleet", kind)
        if kind == "dispatcher":
            command = (str(DEPLOY / "with-ray-node"), *command)
        number, port = machine.rpartition("-")[2], 9464 + (kind == "collector")
        health = {"FLEET_HEALTH_PORT": str(port)}
        return self._service(
            f"{kind}-{number}", machine, *command, port=port, path="/readyz", **_login("control"), **health
        )


def _login(user: str) -> dict[str, str]:
    return {"NATS_USER": user, "NATS_PASSWORD": PASSWORDS[f"NATS_{user.upper()}_PASSWORD"]}


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Cluster]:
    """All of it is ready inside; nothing is left afterwards. Logs are in `folder`, a folder for each machine."""
    async with AsyncExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-", dir="/tmp")))
        network = await stack.enter_async_context(Network(folder, private).running())
        machines = {
            name: await stack.enter_async_context(network.machine(name, number)) for name, number in NUMBERS.items()
        }
        cluster = Cluster(machines, private)
        stack.callback(cluster.stop)
        await cluster.start()
        yield cluster
