"""Part `models` of `fleet bench scale`: how long calls wait while copies of a model server come and go.

In simulated time the same bursts of councils meet servers that are sized in two ways, each by what a
HorizontalPodAutoscaler makes of a number: the calls that are open, as is usual, and those that are coming, as
`deploy/kubernetes/components/keda-models` has it. A server that is called for starts late; one that is sent away
finishes its calls. What a number is worth is a question of its price: the usual way is given at least as many hours of
servers.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import NamedTuple

from fleet.bench import report
from fleet.bench.growth.autoscaler import Autoscaler
from fleet.bench.report import Figure, Report
from fleet.bench.speed.load import quantile

SEATS, MOST = 32, 16
"""Calls that a server makes at once, and servers that there may be."""
START_S, LOOK_EVERY_S = 45.0, 15.0
HOURS = 4.0
CALM_S, BURST_S = 600.0, 120.0
"""How long each lasts, on average."""
CALM_RATE, BURST = 0.06, 8.0
"""Councils a second, and how many times as many in a burst."""
AGENTS, ROUNDS = (3, 5, 8), (0, 1, 1, 2)
CALL_S = {"propose": 12.0, "critique": 9.0, "revise": 12.0, "score": 5.0}
SPREAD = 0.4
USUAL_CALL_S = 8.5
"""Of a call on average, as whoever sets the number of calls for one server knows it."""

USUAL_WINDOW_S = 300.0
"""In which nobody is sent away, as Kubernetes has it."""
USUAL_SHARES = tuple(share / 20 for share in range(8, 25))
"""Of a server's seats that shall be taken; tried until what the servers cost is the same."""
WORKED_OFF_S, ARRIVALS_S, ARRIVED_IN_S, WINDOW_S = 40.0, 45.0, 30.0, 60.0
"""What is coming shall be worked off within so many seconds, with what arrives in the time that a start takes, at the
rate of the last seconds; nobody is sent away in the window."""


@dataclass(frozen=True, slots=True)
class Council:
    """When it is accepted, its agents, and what each call of each phase takes, in seconds."""

    at: float
    agents: int
    phases: Sequence[Sequence[float]]

    def calls_from(self, phase: int) -> int:
        """Of this phase and those after it."""
        return self.agents * (len(self.phases) - phase)


class Work(NamedTuple):
    """What a look finds. `arriving`: calls a second that deliberations bring which were accepted lately."""

    open_calls: int
    ahead: int
    arriving: float


Formula = Callable[[Work], float]
"""Servers that are wanted."""


class Outcome(NamedTuple):
    """Seconds that the slowest twentieth of calls has waited for a seat, and hours of servers."""

    waited_p95_s: float
    server_hours: float


def usual(share: float) -> Formula:
    """The open calls, and so many seats taken."""
    return lambda work: work.open_calls / (share * SEATS)


def coming(work: Work) -> float:
    """As the manifests have it: a server for so many calls as it works off in `WORKED_OFF_S`."""
    return (work.ahead + ARRIVALS_S * work.arriving) / (SEATS * WORKED_OFF_S / USUAL_CALL_S)


def bursts(seed: int, hours: float) -> list[Council]:
    """Calm, then a burst, then calm."""
    rng, now, burst = Random(seed), 0.0, False
    until, councils = rng.expovariate(1 / CALM_S), list[Council]()
    while now < hours * 3600:
        after = now + rng.expovariate(CALM_RATE * (BURST if burst else 1))
        if after > until:
            now, burst = until, not burst
            until = now + rng.expovariate(1 / (BURST_S if burst else CALM_S))
            continue
        now = after
        agents, rounds = rng.choice(AGENTS), rng.choice(ROUNDS)
        names = ["propose", *["critique", "revise"] * rounds, "score"]
        middle = -(SPREAD**2) / 2  # so that the mean stays
        phases = [[CALL_S[name] * rng.lognormvariate(middle, SPREAD) for _ in range(agents)] for name in names]
        councils.append(Council(now, agents, phases))
    return councils


@dataclass(slots=True, eq=False)
class _Server:
    ready_at: float
    calls: int = 0
    leaves: bool = False


class Simulation:
    """One run. Calls wait in one queue for the server that has the most free seats."""

    def __init__(self, councils: Sequence[Council], formula: Formula, window_s: float) -> None:
        self._councils, self._formula = councils, formula
        self._scaler = Autoscaler(MOST, window_s)
        self._servers = [_Server(0.0)]
        self._queue = deque[tuple[float, int, float]]()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number, self._now, self._server_s = 0, 0.0, 0.0
        self._phase: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._accepted = deque[tuple[float, int]]()
        self._waits = list[float]()

    def run(self) -> Outcome:
        """Until all councils have ended."""
        for number, council in enumerate(self._councils):
            self._at(council.at, lambda number=number: self._begin(number))  # type: ignore[misc]
        self._at(0.0, self._look)
        while self._events:
            when, _, happens = heapq.heappop(self._events)
            self._server_s += len(self._servers) * (when - self._now)
            self._now = when
            happens()
            self._seat()
        return Outcome(quantile(self._waits, 0.95), self._server_s / 3600)

    def _at(self, when: float, happens: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, happens))

    def _begin(self, number: int) -> None:
        self._accepted.append((self._now, self._councils[number].calls_from(0)))
        self._ask(number, 0)

    def _ask(self, number: int, phase: int) -> None:
        self._phase[number], self._left[number] = phase, self._councils[number].agents
        self._queue.extend((self._now, number, takes) for takes in self._councils[number].phases[phase])

    def _seat(self) -> None:
        while self._queue:
            able = [each for each in self._servers if each.ready_at <= self._now and not each.leaves]
            server = min(able, key=lambda each: each.calls, default=None)
            if server is None or server.calls >= SEATS:
                return
            since, number, takes = self._queue.popleft()
            self._waits.append(self._now - since)
            server.calls += 1
            self._at(self._now + takes, lambda number=number, server=server: self._answered(number, server))  # type: ignore[misc]

    def _answered(self, number: int, server: _Server) -> None:
        server.calls -= 1
        self._end_idle()
        self._left[number] -= 1
        if self._left[number]:
            return
        if self._phase[number] + 1 < len(self._councils[number].phases):
            self._ask(number, self._phase[number] + 1)
        else:
            del self._phase[number], self._left[number]

    def _end_idle(self) -> None:
        self._servers = [each for each in self._servers if each.calls or not each.leaves]

    def _look(self) -> None:
        stay = [each for each in self._servers if not each.leaves]
        count = self._scaler.size(self._now, len(stay), math.ceil(self._formula(self._work())))
        for _ in range(count - len(stay)):
            self._servers.append(_Server(self._now + START_S))
            self._at(self._now + START_S, lambda: None)
        # First those that have not started, then those with the fewest calls.
        by_use = sorted(stay, key=lambda each: (each.ready_at <= self._now, each.calls))
        for server in by_use[: max(0, len(stay) - count)]:
            server.leaves = True
        self._end_idle()
        if self._events:
            self._at(self._now + LOOK_EVERY_S, self._look)

    def _work(self) -> Work:
        while self._accepted and self._accepted[0][0] <= self._now - ARRIVED_IN_S:
            self._accepted.popleft()
        ahead = sum(
            self._left[number] + self._councils[number].calls_from(phase + 1) for number, phase in self._phase.items()
        )
        arriving = sum(calls for _, calls in self._accepted) / ARRIVED_IN_S
        return Work(len(self._queue) + sum(each.calls for each in self._servers), ahead, arriving)


def played(seeds: Sequence[int], hours: float, formula: Formula, window_s: float) -> list[Outcome]:
    """The same bursts, by seed."""
    return [Simulation(bursts(seed, hours), formula, window_s).run() for seed in seeds]


def usual_at_the_price(seeds: Sequence[int], hours: float, at_least_hours: float, window_s: float) -> list[Outcome]:
    """The largest share that costs as much or more: the larger it is, the less it costs. Else the least one."""
    least, first_cheaper = 0, len(USUAL_SHARES)
    found = played(seeds, hours, usual(USUAL_SHARES[least]), window_s)
    while first_cheaper - least > 1:
        middle = (least + first_cheaper) // 2
        tried = played(seeds, hours, usual(USUAL_SHARES[middle]), window_s)
        if _hours(tried) >= at_least_hours:
            least, found = middle, tried
        else:
            first_cheaper = middle
    return found


def measure(traces: int, hours: float, note: report.Note) -> Report:
    """So many traces of so many hours."""
    seeds = range(1, traces + 1)
    ours = played(seeds, hours, coming, WINDOW_S)
    note(f"by what is coming: {_hours(ours):.1f} hours of servers")
    figures = {}
    for name, window_s in (("usual", USUAL_WINDOW_S), ("usual_with_our_window", WINDOW_S)):
        theirs = usual_at_the_price(seeds, hours, _hours(ours), window_s)
        note(f"by open calls, window of {window_s:g} s: {_hours(theirs):.1f} hours of servers")
        waited = report.ratio_of_means([each.waited_p95_s for each in ours], [each.waited_p95_s for each in theirs])
        figures[f"waiting_p95_s_vs_{name}"] = Figure(
            *waited, of=f"by what is coming, against open calls; nobody is sent away in {window_s:g} s"
        )
        paid = report.ratio_of_means([each.server_hours for each in ours], [each.server_hours for each in theirs])
        figures[f"server_hours_vs_{name}"] = Figure(*paid, of="what that costs")
    return Report("scale", figures, {"traces": traces, "hours": hours})


def _hours(outcomes: Sequence[Outcome]) -> float:
    return fmean(each.server_hours for each in outcomes)
