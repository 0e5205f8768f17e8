"""What `fleet watch` makes of a history."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from nats.aio.msg import Msg

from fleet.cli import watching
from tests.support.waiting import WITHIN_S


def message(stream: str, task_id: str, number: int = 1) -> Msg:
    reply = f"$JS.ACK.{stream}.consumer.1.{number}.{number}.1.0"
    return Msg(_client=None, subject="some", reply=reply, headers={"Task-Id": task_id})  # type: ignore[arg-type]


def queue_of(messages: Iterable[Msg]) -> "asyncio.Queue[Any]":
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for each in messages:
        queue.put_nowait(each)
    return queue


async def test_what_expires_of_a_history_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory stream at its limit drops the oldest of what was counted. What came is shown, without other tasks'."""
    monkeypatch.setattr(watching, "SILENT_S", 0.01)
    mine, other = message("A", "mine"), message("A", "other")
    async with asyncio.timeout(WITHIN_S):
        past, new = await watching._history(queue_of([mine, other]), {"A": 5}, "mine")
    assert (past, list(new)) == ([mine], [])


async def test_what_comes_while_a_history_is_read_is_no_part_of_it() -> None:
    """Else it would take the place of something old of another stream, which would be missing before the end."""
    new, old = message("A", "mine", 2), message("B", "mine")
    async with asyncio.timeout(WITHIN_S):
        past, later = await watching._history(queue_of([message("A", "mine"), new, old]), {"A": 1, "B": 1}, "mine")
    assert [each.metadata.stream for each in past] == ["A", "B"]
    assert list(later) == [new]
