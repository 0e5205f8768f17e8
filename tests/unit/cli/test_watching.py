"""What `fleet watch` makes of a history."""

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from fleet.cli import watching


async def test_what_expires_of_a_history_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory stream at its limit drops the oldest of what was counted. What came is shown, without other tasks'."""
    monkeypatch.setattr(watching, "SILENT_S", 0.01)
    queue: asyncio.Queue[Any] = asyncio.Queue()
    mine, other = (Msg(_client=None, headers={"Task-Id": task_id}) for task_id in ("mine", "other"))
    queue.put_nowait(mine)
    queue.put_nowait(other)
    async with asyncio.timeout(10):
        assert await watching._history(queue, 5, "mine") == [mine]
