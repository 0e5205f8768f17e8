"""Starts a whole fleet on this machine: everything that is not given, and ends it in the reverse order."""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog
from msgspec import structs

from fleet.config import Settings, without_userinfo
from fleet.event_loop import all_of
from fleet.jetstream.connection import connect, disconnect
from fleet.local import launcher, other_fleets, ray_head, ray_remains
from fleet.local.data_dir import DEFAULT_PORT, forget, locked, remember
from fleet.local.nats_server import EmbeddedNats, WebSocket
from fleet.local.own_model import OwnModel
from fleet.local.ports import free_port, health_ports, is_free, preferred
from fleet.local.startable import Startable
from fleet.local.supervisor import Child, ChildFailed
from fleet.model_servers import shown
from fleet.page.server import PageServer, serving

log = structlog.get_logger(__name__)

WEBSOCKET_PORT = 9222
PAGE_PORT = 9280
GRACE_S = 20.0
"""For dispatcher, workers and collector together."""
WORKERS_GRACE_S = 13.0
"""A little more than the workers give their calls."""
MODEL_GRACE_S = 2.0

ModelSource = Literal["given", "simulated", "local"]


class LocalFleet(Startable):
    """`async with LocalFleet(...) as fleet:` everything answers inside; afterwards nothing it started is left.

    `default_port`: the embedded NATS takes 4222 where that is free. `page`: it is served, and the
    embedded NATS listens for browsers. `joins`: where another fleet is at work on the NATS that was given, this one is
    meant to share its work. `simulator` are extra arguments of the simulator.
    `quiet`: the components log into `data_dir/logs`, not to our standard error.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        *,
        nats_port: int | None = None,
        default_port: bool = False,
        page: bool = False,
        joins: bool = False,
        local_model: bool = False,
        simulator: Sequence[str] = (),
        quiet: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.data_dir = data_dir
        self.logs = data_dir / "logs"
        self._quiet = quiet
        self._joins = joins
        self.ray = self._ray_head() if settings.ray_address is None else None
        self.model: ModelSource = "local" if local_model else "simulated" if settings.agent_type == "mock" else "given"
        self._default_port = settings.nats_url is None and nats_port is None and default_port and is_free(DEFAULT_PORT)
        self._nats_port = nats_port
        port = DEFAULT_PORT if self._default_port else nats_port
        self.nats = self._embedded(port) if settings.nats_url is None else None
        self._shows_page = page and self.nats is not None
        self.page: PageServer | None = None
        self._own_model = None if self.model == "given" else OwnModel(self.model, data_dir, self.logs, simulator)
        self.health_ports = health_ports(settings)
        self.dispatcher = self._component("dispatcher")
        self.collector = self._component("collector")

    @property
    def nats_url(self) -> str:
        return self.nats.url if self.nats else self.settings.nats

    @property
    def vllm_url(self) -> str:
        """All model servers, without credentials: for people, and for commands that look at them."""
        return ",".join(shown(server.url) for server in self.settings.model_servers.values())

    @property
    def ray_is_local(self) -> bool:
        return self.ray is not None

    @property
    def pids(self) -> dict[str, int | None]:
        """Of the processes that run now."""
        return {"dispatcher": self.dispatcher.pid, "collector": self.collector.pid}

    def facts(self) -> dict[str, Any]:
        """What `fleet up --json` prints: without credentials."""
        shown = {"nats_url": without_userinfo(self.nats_url), "vllm_url": without_userinfo(self.vllm_url)}
        facts = {"ready": True, **shown, "pids": self.pids}
        if self.page:
            facts["page_url"] = self.page.url
        return {**facts, "health_ports": self.health_ports} if self.health_ports else facts

    async def defect(self) -> None:
        """Waits until the supervision of a part fails by a defect, which it raises."""
        parts = (*self._children(), self.nats)
        await asyncio.gather(*(part.defect() for part in parts if part))

    def kill(self) -> None:
        """Ends everything at once, for the impatient."""
        import psutil

        for child in (*self._children(), self.nats and self.nats.child):
            if child:
                child.kill()
        for process in psutil.Process().children(recursive=True):
            process.kill()
        if self.ray:
            ray_remains.end_remains(self.data_dir)

    def _children(self) -> Iterator[Child]:
        yield from (self.dispatcher, self.collector)
        if self.ray:
            yield self.ray
        if self._own_model:
            yield self._own_model.child

    async def _start(self) -> None:
        self._stack.enter_context(locked(self.data_dir))
        self.logs.mkdir(exist_ok=True)
        self._stack.callback(forget, self.data_dir)
        started = asyncio.get_running_loop().time()
        # What ends last comes first.
        self._stack.push_async_callback(self._stop_nats)
        if self._own_model:
            self._stack.push_async_callback(self._own_model.child.stop, MODEL_GRACE_S)
        self._stack.push_async_callback(self._stop_components)

        if self._shows_page:
            self.page = await self._stack.enter_async_context(serving(preferred(PAGE_PORT)))
        ray = asyncio.create_task(self._start_ray())
        self._stack.callback(ray.cancel)
        await all_of((self._start_nats(), self._start_model()))
        # The collector has no use for Ray: it starts meanwhile.
        await all_of((self.collector.start(), ray))
        await self.dispatcher.start()
        self._remember()
        log.info("fleet.ready", seconds=round(asyncio.get_running_loop().time() - started, 1))

    async def _start_nats(self) -> None:
        if self.nats:
            self._open_to_browsers(self.nats, preferred(WEBSOCKET_PORT))
            try:
                url = await self.nats.start()
            except ChildFailed:
                if not self._default_port and self.page is None:
                    raise
                await self.nats.stop()  # somebody else has just taken a port
                self.nats = self._embedded(None if self._default_port else self._nats_port)
                self._open_to_browsers(self.nats, free_port())
                url = await self.nats.start()
            self._use(nats_url=url)
        else:
            # The components would wait for it, however long: whoever types `fleet up` is told.
            nc = await connect(self.settings, "fleet-up")
            try:
                if not self._joins:
                    await other_fleets.refuse(nc, without_userinfo(self.nats_url))
            finally:
                await disconnect(nc)

    def _embedded(self, port: int | None) -> EmbeddedNats:
        return EmbeddedNats(self.data_dir, port, on_restart=self._remember)

    def _open_to_browsers(self, nats: EmbeddedNats, port: int) -> None:
        if self.page:
            nats.websocket = WebSocket(port, self.page.origins)
            self.page.servers = (nats.websocket.url,)

    async def _stop_nats(self) -> None:
        if self.nats:
            await self.nats.stop()

    async def _start_model(self) -> None:
        if self._own_model:
            url = await self._own_model.start(self.settings.roles)
            self._use(vllm_urls=(url,), agent_type=self._own_model.agent_type)

    async def _start_ray(self) -> None:
        if self.ray:
            self._use(ray_address=await self.ray.start())

    async def _stop_components(self) -> None:
        """Nothing new first, then the calls in flight, then what takes their answers."""
        until = asyncio.get_running_loop().time() + GRACE_S

        def left_s() -> float:
            return max(until - asyncio.get_running_loop().time(), 1.0)

        await self.dispatcher.stop(GRACE_S - WORKERS_GRACE_S)
        if self.ray:
            await self.ray.stop(min(WORKERS_GRACE_S, left_s()))
            await asyncio.to_thread(ray_remains.end_remains, self.data_dir)
        elif self.dispatcher.pid is not None:
            try:
                await launcher.stop_workers(self._environ(), min(WORKERS_GRACE_S, left_s()))
            except TimeoutError:
                log.warning("workers.not_stopped")
        await self.collector.stop(left_s())

    def _use(self, **changes: Any) -> None:
        self.settings = structs.replace(self.settings, **changes)

    def _remember(self) -> None:
        more = {
            "nats_url": self.nats_url,
            "vllm_url": self.vllm_url,
            "ray_address": self.settings.ray_address,
            "nats_embedded": self.nats is not None,
            "supervisor": os.getpid(),
        }
        remember(self.data_dir, {**self.facts(), **more})

    def _environ(self) -> dict[str, str]:
        """Ours, and where everything is."""
        where = {
            "NATS_URL": self.nats_url,
            "VLLM_URL": ",".join(self.settings.vllm_urls),
            "AGENT_TYPE": self.settings.agent_type,
            "RAY_ADDRESS": self.settings.ray_address or "",
        }
        if self.ray:
            where |= ray_head.credentials(self.data_dir)
        if self._own_model:
            where |= self._own_model.environ()
        quiet = ray_head.QUIET if self.ray else {}
        # What is read from a file stays there, to be read again.
        kept = self.settings.secret_files
        return {**quiet, **os.environ, **{name: value for name, value in where.items() if value and name not in kept}}

    def _health_of(self, name: str) -> dict[str, str]:
        if not self.health_ports:
            return {}
        host = self.settings.health_host or "127.0.0.1"
        return {"FLEET_HEALTH_PORT": str(self.health_ports[name]), "FLEET_HEALTH_HOST": host}

    def _component(self, name: str) -> Child:
        return Child(
            name,
            lambda: [sys.executable, "-m", "fleet.cli", name],
            environ=lambda: {**self._environ(), **self._health_of(name)},
            log_file=self.logs / f"{name}.log" if self._quiet else None,
            waits=True,
            on_restart=self._remember,
        )

    def _ray_head(self) -> Child:
        port = free_port()  # Ray's control service keeps it over restarts, and clients find it again.
        return Child(
            "ray",
            lambda: [sys.executable, "-m", "fleet.local.ray_head", str(self.data_dir), str(port)],
            log_file=self.logs / "ray.log",
        )
