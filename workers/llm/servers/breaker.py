"""Stops calls to a model server that fails: a circuit breaker. Pure: the clock is passed in.

    state      what happens                                becomes
    ─────────────────────────────────────────────────────────────────────────────────────────────
    closed     an attempt fails, and too many have         open, for the first cool-down
    closed     anything else                               closed
    open       the cool-down is over                       half-open
    half-open  an attempt begins: the probe, and only one  half-open
    half-open  the probe succeeds                          closed, with nothing counted
    half-open  the probe fails                             open, for twice as long, up to the longest
    half-open  the probe is abandoned                      half-open, free for another probe

Too many: `failures` of the last `WINDOW` attempts, and `share` of them at least. An attempt that began before the
latest transition says nothing of the server as it is now: its outcome is not counted.

A request may fail by its own fault. So a server that took a request and then failed at it (`failed at it`) is doubted
once for each task, and only since it last did well; one that cannot be reached (`failed`) is doubted each time.
"""

from collections import deque
from typing import Literal

from msgspec import Struct

from fleet.messages.workers import BreakerState

WINDOW = 20

Outcome = Literal["succeeded", "failed", "failed at it", "abandoned"]


class Rules(Struct, frozen=True, kw_only=True):
    """When to open, and for how long."""

    failures: int
    share: float
    cool_down_s: float
    longest_cool_down_s: float


class Breaker:
    """Of one server. Ask `admits`, then `begin`, and `end` with what `begin` returned."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._ended: deque[tuple[Outcome, str]] = deque(maxlen=WINDOW)
        self._open_until: float | None = None
        self._probing = False
        self._era = 0
        self.cool_down_s = 0.0
        self.opened = 0
        """How often it has opened, failed probes included."""

    def state(self, now: float) -> BreakerState:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether an attempt may begin."""
        return self.state(now) == "closed" or (self.state(now) == "half-open" and not self._probing)

    def wait_s(self, now: float) -> float | None:
        """Until an attempt may begin; None: as long as the probe takes."""
        return None if self._probing else max(0.0, (self._open_until or 0.0) - now)

    def begin(self, now: float) -> int:
        """An attempt begins. Only when `admits`."""
        if self.state(now) == "half-open":
            self._probing = True
            self._era += 1
        return self._era

    def end(self, era: int, outcome: Outcome, now: float, task: str = "") -> None:
        """The attempt for which `begin` returned `era` has ended. Without a `task` it is like no other."""
        if era != self._era:
            return
        if self._probing:
            self._probe_ended(outcome, now)
        elif outcome != "abandoned":
            self._ended.append((outcome, task))
            failures, attempts = self._failures()
            if failures >= self._rules.failures and failures >= self._rules.share * attempts:
                self._open(self._rules.cool_down_s, now)

    def _failures(self) -> tuple[int, int]:
        """Those that count, and of how many."""
        failures, repeated = 0, 0
        tasks: set[str] = set()
        done_well = False
        for outcome, task in reversed(self._ended):
            if outcome == "succeeded":
                done_well = True
            elif outcome == "failed":
                failures += 1
            elif task and task in tasks:
                repeated += 1
            elif not done_well:
                tasks.add(task)
                failures += 1
        return failures, len(self._ended) - repeated

    def _probe_ended(self, outcome: Outcome, now: float) -> None:
        self._probing = False
        self._era += 1
        if outcome == "succeeded":
            self._open_until = None
        elif outcome != "abandoned":
            self._open(min(2 * self.cool_down_s, self._rules.longest_cool_down_s), now)

    def _open(self, cool_down_s: float, now: float) -> None:
        self.cool_down_s = cool_down_s
        self._open_until = now + cool_down_s
        self._ended.clear()
        self._era += 1
        self.opened += 1
