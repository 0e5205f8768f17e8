"""Notices when NATS refuses something to a user: it reports that on the side, and the caller would wait for ever."""

import asyncio
import re
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from fleet.config import Settings
from fleet.errors import FleetError

_REFUSAL = re.compile(r"permissions violation for (publish|subscription) to (\S+)", re.IGNORECASE)


class NotAllowed(FleetError):
    """The permissions of the user do not cover what was asked for."""


class Refusals:
    """A block that ends with `NotAllowed` as soon as something in it was refused. `hear`: nats-py's `error_cb`."""

    def __init__(self, settings: Settings) -> None:
        self._user = _user(settings)
        self._task: asyncio.Task[Any] | None = None
        self._refused: str | None = None

    async def hear(self, error: Exception) -> None:
        match = _REFUSAL.search(str(error))
        if match is None or self._task is None or self._refused is not None:
            return
        verb = "publish" if match[1].lower() == "publish" else "subscribe to"
        self._refused = f"{self._user} may not {verb} {match[2].strip(chr(34))}: NATS refuses it (see its permissions)"
        self._task.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        task, self._task = self._task, None
        if task is None or self._refused is None:
            return
        if isinstance(error, asyncio.CancelledError):
            if task.uncancel() > 0:
                return  # somebody else wants an end, too
        elif error is None:
            task.uncancel()
        raise NotAllowed(self._refused) from None


def _user(settings: Settings) -> str:
    """Who this is, as far as the settings say; a user without a password is a token, which nobody may see."""
    first = urlsplit(settings.nats.split(",")[0])
    return f"user {first.username!r}" if first.username and first.password else "this user"
