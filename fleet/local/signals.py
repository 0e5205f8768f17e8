"""Runs until a signal says stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fleet.exits import Exit

T = TypeVar("T")

STOPS = (signal.SIGINT, signal.SIGTERM)


def run_until_signalled(
    main: Coroutine[Any, Any, T],
    *,
    at_once: Callable[[], None] = lambda: None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T | None:
    """SIGINT or SIGTERM cancels `main`, which may take its time to end; None says that this happened.

    A second signal calls `at_once` and ends the process there and then.
    """
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_until_signalled(main, at_once))


async def _until_signalled(main: Coroutine[Any, Any, T], at_once: Callable[[], None]) -> T | None:
    task = asyncio.ensure_future(main)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            at_once()
            os._exit(Exit.INTERRUPTED)
        stopping = True
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopping:
            raise
        return None


def reclaim() -> None:
    """Takes the signals back from Ray, whose first `ray.init` puts a handler in place that aborts the process."""
    for number in STOPS:
        signal.signal(number, signal.getsignal(number))
