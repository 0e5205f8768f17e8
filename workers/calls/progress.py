"""Publishes a call's text while the model writes it, a few times a second. Best effort: the call never waits for it.

With many calls at once each is told of less often: to tell is work for NATS, and it takes cores that a model server on
the same machine would have.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fleet.clock import now_ms
from fleet.errors import AgentCallError
from fleet.event_loop import log_failure
from fleet.messages import AgentProgress, AgentRequested
from fleet.times import rfc3339
from workers.calls.call_names import slot_of

Send = Callable[[AgentProgress, int], Coroutine[Any, Any, None]]
"""Publishes an event; the number counts the events of its attempt, from 1."""

MOST_PER_S = 100
"""Events of one worker, of all its calls together, beside the last one of each."""


class ProgressRate:
    """How often the calls of one worker are told of. `interval_ms`: at the most often."""

    def __init__(self, interval_ms: int) -> None:
        self._least_s = interval_ms / 1000
        self.writing = 0
        """Calls that write just now."""

    @property
    def interval_s(self) -> float:
        """Between two events of one call."""
        return max(self._least_s, self.writing / MOST_PER_S)


class ProgressReport:
    """A `CallWatcher` of one call. Sends text once per interval, and the rest when an attempt ends."""

    def __init__(self, request: AgentRequested, rate: ProgressRate, send: Send) -> None:
        self._request = request
        self._rate = rate
        self._writing = False
        self._send = send
        self._attempt = 0
        self._sent = 0
        self._text: list[str] = []
        self._tokens = 0
        self._pct = 0
        self._message = "writing"
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def began(self, attempt: int, after: AgentCallError | None) -> None:
        self._attempt, self._sent, self._tokens, self._pct = attempt, 0, 0, 0
        self._message = f"retrying after {after.error_type}" if after else "writing"
        if after:
            self._schedule()

    def wrote(self, text: str, tokens: int, max_tokens: int) -> None:
        if not self._writing:
            self._writing = True
            self._rate.writing += 1
        self._text.append(text)
        self._tokens = tokens
        self._pct = min(99, tokens * 100 // max_tokens)
        self._schedule()

    def ended(self, tokens: int, error: AgentCallError | None) -> None:
        self._tokens = tokens
        if error is None:
            self._pct, self._message = 100, "done"
            self._flush()
        elif self._text:
            self._flush()
        self.close()

    def close(self) -> None:
        """Sends nothing more of its own accord."""
        if self._writing:
            self._writing = False
            self._rate.writing -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def sent(self) -> None:
        """Waits until everything has been handed to the connection."""
        if self._sending:
            await asyncio.wait(self._sending)

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._rate.interval_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        text, self._text = "".join(self._text), []
        self._sent += 1
        event = AgentProgress(
            **slot_of(self._request),
            attempt=self._attempt,
            progress_pct=self._pct,
            message=self._message,
            text_delta=text,
            tokens=self._tokens,
            timestamp=rfc3339(now_ms()),
        )
        if self._pct < 100:
            self._message = "writing"
        # Tasks start in the order of their making, and publishing writes to the connection before it first waits.
        task = asyncio.get_running_loop().create_task(self._send(event, self._sent))
        self._sending.add(task)
        task.add_done_callback(log_failure)
        task.add_done_callback(self._sending.discard)
