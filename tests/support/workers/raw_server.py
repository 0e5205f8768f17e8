"""A model server that sends recorded bytes, and then ends the connection as it was recorded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LIST = b'{"object": "list", "data": [{"id": "m"}]}'
MODELS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(LIST), LIST)
HEARTBEAT = b"8\r\n: ping\n\n\r\n"
"""A chunk of the body."""
HEARTBEAT_EVERY_S = 0.1


class RawServer:
    """Answers every chat request with the same bytes. `then`: kept open, silence, heartbeats, closed or cut."""

    def __init__(self, response: bytes, then: str = "kept open") -> None:
        self._response = response
        self._then = then
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.url = ""

    @property
    def requests(self) -> int:
        return len(self.bodies)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(lines.get("content-length", 0)))
                if head.startswith("GET"):
                    writer.write(MODELS)
                    continue
                self.heads.append(head)
                self.bodies.append(body)
                writer.write(self._response)
                await writer.drain()
                if self._then in ("closed", "cut"):
                    break
                if self._then == "heartbeats":
                    await _beat_until_it_ends(reader, writer)
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _beat_until_it_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    gone = asyncio.ensure_future(reader.read(1))
    while not gone.done():
        writer.write(HEARTBEAT)
        await writer.drain()
        await asyncio.wait({gone}, timeout=HEARTBEAT_EVERY_S)


@asynccontextmanager
async def raw_server(response: bytes, then: str = "kept open") -> AsyncIterator[RawServer]:
    server = RawServer(response, then)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
