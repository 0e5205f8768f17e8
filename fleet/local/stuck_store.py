"""Restarts a nats-server that stores nothing more in a stream, although its disk has room again.

It says so in its log only, stream by stream. Only a restart helps, and only once there is room.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

FAILED = b"JetStream failed to store a msg"
LOOK_EVERY_S = 1.0
ROOM_BYTES = 1024 * 1024
LOOKS = 2
"""So many looks in a row that find room, and new failures."""
PAUSE_S = 10.0
"""Between restarts."""


class StuckStore:
    """Watches `log_file`, and calls `restart` where what fails cannot be the disk any more."""

    def __init__(self, log_file: Path, store: Path, restart: Callable[[], Awaitable[None]]) -> None:
        self._log_file = log_file
        self._store = store
        self._restart = restart
        self._read_to = 0

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        self._news()
        stuck = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if FAILED not in self._news():
                continue  # nobody has written meanwhile
            stuck = stuck + 1 if self._has_room() else 0
            if stuck >= LOOKS:
                log.error("nats.stores_nothing", action="restarting it", log_file=str(self._log_file))
                await self._restart()
                stuck = 0
                await asyncio.sleep(PAUSE_S)

    def _news(self) -> bytes:
        """What was logged since the last look."""
        try:
            with self._log_file.open("rb") as file:
                file.seek(self._read_to)
                news = file.read()
                self._read_to = file.tell()
        except OSError:
            return b""
        return news

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self._store).free > ROOM_BYTES
        except OSError:
            return False
