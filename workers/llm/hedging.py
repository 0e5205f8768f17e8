"""Makes a call that runs much longer than usual a second time, elsewhere; the first valid answer wins."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

from workers.llm.attempt import Attempt, TextSink
from workers.llm.failures import AttemptError

SAMPLES = 50
FEWEST_SAMPLES = 10

OVERTAKEN = AttemptError(
    "Overtaken", "a second attempt elsewhere had answered first", fault="server", begun=True, retryable=True
)

AttemptCoroutine = Coroutine[Any, Any, Attempt]


class Durations:
    """How long the last good attempts took, by phase. `factor` None: nobody is ever late."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._seen: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=SAMPLES))

    def add(self, phase: str, seconds: float) -> None:
        if self._factor is not None:
            self._seen[phase].append(seconds)

    def late_after_s(self, phase: str) -> float | None:
        """When an attempt is much longer than its like; None as long as there are too few of these."""
        seen = self._seen[phase]
        if self._factor is None or len(seen) < FEWEST_SAMPLES:
            return None
        return self._factor * median(seen)


class BufferedText:
    """A `TextSink` for a second attempt: passed on once it has won."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._tokens = 0
        self._max_tokens = 1

    def wrote(self, text: str, tokens: int, max_tokens: int) -> None:
        self._parts.append(text)
        self._tokens, self._max_tokens = tokens, max_tokens

    def pass_on(self, sink: TextSink) -> None:
        if self._parts:
            sink.wrote("".join(self._parts), self._tokens, self._max_tokens)


async def race(first: AttemptCoroutine, second: Callable[[], AttemptCoroutine | None], after_s: float) -> Attempt:
    """The first attempt that ends well, else the last one that ends. `second` is asked for one after `after_s`.

    Whatever else runs is cancelled, and has ended, when this returns or is cancelled itself.
    """
    running: set[asyncio.Task[Attempt]] = {asyncio.create_task(first)}
    try:
        _, late = await asyncio.wait(running, timeout=after_s)
        if late and (other := second()) is not None:
            running.add(asyncio.create_task(other))
        while True:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            ended = [task.result() for task in done]
            good = [attempt for attempt in ended if attempt.error is None]
            if good or not running:
                return min(good or ended, key=lambda attempt: attempt.number)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
