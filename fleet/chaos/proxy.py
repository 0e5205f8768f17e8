"""Runs a TCP proxy in front of NATS that cuts links, or holds them silent for a while.

Clients are known by the name in their CONNECT line.
"""

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress

HOST = "127.0.0.1"
_CHUNK = 64 * 1024
_NAME = re.compile(rb'"name":\s*"([^"]*)"')
STOP_WITHIN_S = 2.0

Which = Callable[["Link"], bool]


class Link:
    """One client's connection. Nothing passes while `open` is cleared."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = ""
        self.open = asyncio.Event()
        self.open.set()
        self.writers: list[StreamWriter] = []

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """`upstreams` are the ports of the servers behind it, known at its start. Each link gets the next that listens."""

    def __init__(self, *upstreams: int) -> None:
        self.upstreams = upstreams
        self._links: set[Link] = set()
        self._count = 0
        self._silent: Which | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.heal()
        for link in list(self._links):
            link.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_WITHIN_S)

    def cut(self, which: Which) -> int:
        """Closes the links that match; returns how many."""
        links = [link for link in self._links if which(link)]
        for link in links:
            link.cut()
        return len(links)

    def silence(self, which: Which, *, coming: bool = True) -> int:
        """Holds back every byte of the links that match until `heal`, and of those to come if `coming`; how many."""
        self._silent = which if coming else None
        links = [link for link in self._links if which(link)]
        for link in links:
            link.open.clear()
        return len(links)

    def heal(self) -> None:
        """What was held back flows again, late."""
        self._silent = None
        for link in self._links:
            link.open.set()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._count += 1
        link = Link(self._count)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._links.add(link)
        link.writers.append(writer)
        try:
            server_reader, server_writer = await self._connect(link.number)
            link.writers.append(server_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, reader, server_writer, self._learn))
                group.create_task(self._pump(link, server_reader, writer, None))
        except* (OSError, EOFError):
            pass  # one side has left: so does the other
        finally:
            link.cut()
            self._links.discard(link)
            self._tasks.discard(task)

    async def _connect(self, number: int) -> tuple[StreamReader, StreamWriter]:
        ports = [self.upstreams[(number + turn) % len(self.upstreams)] for turn in range(len(self.upstreams))]
        for port in ports[:-1]:
            with suppress(OSError):
                return await asyncio.open_connection(HOST, port)
        return await asyncio.open_connection(HOST, ports[-1])

    async def _pump(
        self, link: Link, reader: StreamReader, writer: StreamWriter, learn: Callable[[Link, bytes], None] | None
    ) -> None:
        while data := await reader.read(_CHUNK):
            if learn is not None and not link.name:
                learn(link, data)
            await link.open.wait()
            writer.write(data)
            await writer.drain()
        await link.open.wait()
        with suppress(OSError):
            writer.write_eof()
        raise EOFError

    def _learn(self, link: Link, data: bytes) -> None:
        if found := _NAME.search(data):
            link.name = found[1].decode(errors="replace")
            if self._silent is not None and self._silent(link):
                link.open.clear()
