"""Gets one worker its part of the limits of endpoints: requests it, keeps what was granted, and gives it back.

Everything that calls of this worker need is asked for in one turn at the fleet's record. Nothing runs, and nothing is
asked, while no call is open or waits at an endpoint with limits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import random
from typing import Protocol

import structlog

from fleet.clock import now_ms
from fleet.event_loop import end, log_failure
from fleet.model_servers import EndpointConfig
from fleet.observability.retries import again
from workers.llm.servers.limits import Grant, Need, Record, has_rates, is_limited, settle, without

log = structlog.get_logger(__name__)

Records = dict[str, Record]
"""By the name of the endpoint."""

BEAT_S = 1.0
"""How often a worker with open calls says that it lives."""
LOST_AFTER_S = 6.0
"""Who has said nothing for so long is dead: its seats are free."""
LAPSED_AFTER_S = 4.0
"""Who could not say anything for so long begins no call: others may soon take its seats."""
LOOK_AGAIN_S = 0.25
"""How often a worker whose calls wait looks for seats that others have given back."""
BETWEEN_S = 0.01
LEARNS = 0.1
"""How fast the share of the expected tokens that calls really use is learned."""


class Unreadable(Exception):
    """The record could not be read or written just now."""


class Ledger(Protocol):
    """Where the fleet's record of allowances is kept."""

    async def change(self, step: Callable[[Records, int], Records]) -> None:
        """Applies `step` to the records and the time now, in ms; again if somebody else was faster.

        Raises `Unreadable`: then nobody knows whether it was applied.
        """


class OwnLedger:
    """Of a process that is alone."""

    def __init__(self) -> None:
        self._records: Records = {}

    async def change(self, step: Callable[[Records, int], Records]) -> None:
        self._records = step(self._records, now_ms())


class Allowance:
    """What one worker may begin at one endpoint."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.limited = is_limited(config)
        self.open_calls = 0
        self._granted: deque[float] = deque()
        """Calls that may begin, by the tokens that were taken for each."""
        self._part: int | None = None
        self._full_until = 0.0
        self._holds_until = 0.0
        self._owed = 0.0
        self._share = 1.0

    def may_have(self, now: float) -> bool:
        """Whether it is worth asking."""
        return not self.limited or bool(self._granted) or now >= self._full_until

    def has(self, now: float) -> bool:
        """Whether a call may begin now."""
        return not self.limited or (bool(self._granted) and now < self._holds_until)

    def begin(self) -> float:
        """A call begins: the tokens that were taken for it."""
        self.open_calls += 1
        return self._granted.popleft() if self._granted else 0.0

    def end(self, taken: float, expected: int, used: int) -> None:
        """It has ended, and has really used so many."""
        self.open_calls -= 1
        self._owed += used - taken
        if expected and used:
            self._share += LEARNS * (used / expected - self._share)
        # A seat alone can be used again at once, unless others should have it.
        if self.limited and not has_rates(self.config) and self.open_calls + len(self._granted) < (self._part or 0):
            self._granted.append(0.0)

    def need(self, waiting: Sequence[int]) -> Need:
        """What to ask for. Grants that were not used go back: until `take`, no call begins."""
        unused, self._granted = self._granted, deque()
        owed, self._owed = self._owed, 0.0
        rates = has_rates(self.config)
        return Need(
            open_calls=self.open_calls,
            waiting=tuple(round(self._share * tokens) for tokens in waiting),
            requests=-len(unused) if rates else 0,
            tokens=owed - sum(unused),
        )

    def take(self, grant: Grant, need: Need, asked_at: float, now: float) -> None:
        """What was granted of `need`, which was asked for at `asked_at`."""
        self._holds_until = asked_at + LAPSED_AFTER_S
        rates = has_rates(self.config)
        self._granted.extend(float(tokens) if rates else 0.0 for tokens in need.waiting[: grant.calls])
        self._part = grant.part
        full_until = now + grant.again_s
        if len(need.waiting) > grant.calls:
            full_until = max(full_until, now + LOOK_AGAIN_S)
        elif not need.waiting:  # Else those that were refused, and look elsewhere, come back.
            full_until = max(full_until, self._full_until)
        self._full_until = full_until

    def unknown(self, need: Need) -> None:
        """Nobody knows whether `need` was written. What was used counts again rather than never."""
        self._part = 0
        self._owed += max(0.0, need.tokens)

    @property
    def has_unused(self) -> bool:
        return bool(self._granted)

    @property
    def full_until(self) -> float:
        return self._full_until


class Allowances:
    """Of one worker. `waiting` tells the expected tokens of the calls that want to begin at an endpoint; `granted` is
    told what has become of them.
    """

    def __init__(
        self,
        allowances: Mapping[str, Allowance],
        waiting: Callable[[str], Sequence[int]],
        granted: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowances = {name: each for name, each in allowances.items() if each.limited}
        self._waiting = waiting
        self._granted = granted
        self._clock = clock
        self._ledger: Ledger = OwnLedger()
        self._worker = "alone"
        self._beat = 0
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}
        self._written: frozenset[str] = frozenset()
        """Endpoints whose records name this worker."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def share(self, ledger: Ledger, worker: str) -> None:
        """With the other workers of the fleet. Before the first call."""
        self._ledger, self._worker = ledger, worker

    def ask(self) -> None:
        """Something has changed: a call waits, or a seat is free."""
        if not self._allowances:
            return
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="share limits")
            self._task.add_done_callback(log_failure)

    async def close(self) -> None:
        """Gives everything back, if that can be done at once."""
        if self._task is not None:
            await end(self._task)
        if self._written:
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._ledger.change(self._leave)
            except (Unreadable, TimeoutError):
                pass  # The others see that this worker is silent.

    async def _run(self) -> None:
        while True:
            self._news.clear()
            await again("limits.share", self._settle, on=Unreadable, first_s=LOOK_AGAIN_S, longest_s=LOOK_AGAIN_S)
            if not self._written and not self._news.is_set():
                return
            await asyncio.sleep(BETWEEN_S)
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _pause_s(self) -> float:
        waited_for = [each for name, each in self._allowances.items() if self._waiting(name)]
        if not waited_for:
            return LOOK_AGAIN_S if any(each.has_unused for each in self._allowances.values()) else BEAT_S
        now = self._clock()
        nearest_s = min(max(0.0, each.full_until - now) for each in waited_for)
        return min(LOOK_AGAIN_S, nearest_s) * (1.0 + 0.2 * random())

    async def _settle(self) -> None:
        """One turn at the record. Raises `Unreadable`."""
        needs = {name: each.need(self._waiting(name)) for name, each in self._allowances.items()}
        needs = {name: need for name, need in needs.items() if name in self._written or need != Need()}
        if not needs:
            return
        grants: dict[str, Grant] = {}
        self._beat += 1
        asked_at = self._clock()

        def step(records: Records, now: int) -> Records:
            changed = dict(records)
            for name, need in needs.items():
                record = records.get(name, Record())
                lost = self._lost(name, record)
                config = self._allowances[name].config
                turn = settle(record, config, self._worker, need, now_ms=now, beat=self._beat, lost=lost)
                changed[name], grants[name] = turn
            return changed

        try:
            await self._ledger.change(step)
        except Unreadable:
            for name, need in needs.items():
                self._allowances[name].unknown(need)
            raise
        self._written = frozenset(name for name, need in needs.items() if need.open_calls or need.waiting)
        for name, grant in grants.items():
            self._allowances[name].take(grant, needs[name], asked_at, self._clock())
            self._granted(name, grant.calls)

    def _lost(self, endpoint: str, record: Record) -> list[str]:
        now, lost = self._clock(), []
        for worker, held in record.workers.items():
            beat, since = self._seen.get((endpoint, worker), (None, now))
            if beat != held.beat:
                self._seen[endpoint, worker] = (held.beat, now)
            elif now - since > LOST_AFTER_S:
                lost.append(worker)
        for key in [key for key in self._seen if key[0] == endpoint and key[1] not in record.workers]:
            del self._seen[key]
        return lost

    def _leave(self, records: Records, _: int) -> Records:
        return {name: without(record, self._worker) for name, record in records.items()}
