"""Waits for facts that nothing tells of: a counter, a file, a process, what a server says when it is asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from nats.js import JetStreamContext

WITHIN_S = 120.0
"""Of a machine with far more to do than it can. A test that waits for what never comes ends, and no more."""
PAUSE_S = 0.01


async def until(
    fact: Callable[[], Any],
    within_s: float = WITHIN_S,
    pause_s: float = PAUSE_S,
    not_yet: tuple[type[Exception], ...] = (),
) -> None:
    """Asks again and again until it is so; `fact` may be asked by `await`. Raises TimeoutError.

    `not_yet`: errors which say that it is not so yet.
    """
    async with asyncio.timeout(within_s):
        while True:
            with suppress(*not_yet):
                answer = fact()
                if await answer if isinstance(answer, Awaitable) else answer:
                    return
            await asyncio.sleep(pause_s)


def wait_until(fact: Callable[[], Any], within_s: float = WITHIN_S, pause_s: float = PAUSE_S) -> None:
    """As `until`, where no event loop runs."""
    end = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(pause_s)


async def until_stored(js: JetStreamContext, stream: str, fact: Callable[[int], bool]) -> None:
    """Until the stream holds a number of messages of which this is so."""

    async def is_so() -> bool:
        return fact((await js.stream_info(stream)).state.messages)

    await until(is_so)


async def until_emptied(js: JetStreamContext, stream: str) -> None:
    """A work queue is, once every message has been acknowledged."""
    await until_stored(js, stream, lambda count: count == 0)


async def until_consumer(js: JetStreamContext, stream: str, consumer: str, fact: Callable[[Any], bool]) -> None:
    """Until this is so of what NATS says of a consumer."""

    async def is_so() -> bool:
        return fact(await js.consumer_info(stream, consumer))

    await until(is_so)
