"""Simulates how long calls wait where servers are nearly busy: the real choice of servers, in simulated time."""

import heapq
from collections import defaultdict, deque
from random import Random

from fleet.model_servers import EndpointConfig
from workers.llm.servers.endpoint import Endpoint, rules_of
from workers.llm.servers.routing import Routing

LOAD = 0.8
WAITING_SERVERS = 8
AGENTS, PHASES = 4, 4
DURATION = 200.0
"""In mean call times."""
PREFILL = 0.2
"""Of a call's time, where its prefix is not in the cache of its server."""


def waits(seed: int, seats: int, *, by_load: bool) -> list[float]:
    """Of each call, from its beginning until its end; a call takes 1 ± 0.4 with its prefix at hand."""
    return _Simulation(seed, seats, by_load=by_load).run()


class _Simulation:
    def __init__(self, seed: int, seats: int, *, by_load: bool) -> None:
        self._rng = Random(seed)
        self._arrivals = Random(f"arrivals-{seed}")
        """The same for each choice of servers: both meet the same crowds."""
        self._seats = seats
        self._by_load = by_load
        rules = rules_of(5, 0.5, 1.0, 10.0)
        names = [f"gpu-{number}" for number in range(WAITING_SERVERS)]
        self._endpoints = [Endpoint(name, EndpointConfig(url="http://gpu"), rules) for name in names]
        self._queues: dict[Endpoint, deque[tuple[str, float]]] = {each: deque() for each in self._endpoints}
        self._busy = dict.fromkeys(self._endpoints, 0)
        self._routing = Routing()
        self._events: list[tuple[float, int, Endpoint | None, str, float]] = []
        self._number = 0
        self._open: dict[str, int] = {}
        self._phase: dict[str, int] = defaultdict(int)
        self._known: dict[str, set[str]] = defaultdict(set)
        self._times: list[float] = []

    def run(self) -> list[float]:
        per_call = LOAD * WAITING_SERVERS * self._seats
        self._at(0.0, None, "", 0.0)
        councils = 0
        while self._events:
            now, _, endpoint, task, began = heapq.heappop(self._events)
            if endpoint is not None:
                self._ended(now, endpoint, task, began)
            elif now < DURATION:
                self._begin_phase(now, f"{self._by_load}-{councils}")
                councils += 1
                self._at(now + self._arrivals.expovariate(per_call / (AGENTS * PHASES)), None, "", 0.0)
        return self._times

    def _at(self, when: float, endpoint: Endpoint | None, task: str, began: float) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, endpoint, task, began))

    def _begin_phase(self, now: float, task: str) -> None:
        self._open[task] = AGENTS
        for _ in range(AGENTS):
            named = "" if self._by_load else task
            endpoint = self._routing.pick(named, self._endpoints)
            self._routing.begin(named, endpoint)
            endpoint.open_calls += 1
            if self._busy[endpoint] < self._seats:
                self._run(now, endpoint, task, now)
            else:
                self._queues[endpoint].append((task, now))

    def _run(self, now: float, endpoint: Endpoint, task: str, began: float) -> None:
        takes = self._rng.uniform(0.6, 1.4) + (0.0 if endpoint.name in self._known[task] else PREFILL)
        self._known[task].add(endpoint.name)
        self._busy[endpoint] += 1
        self._at(now + takes, endpoint, task, began)

    def _ended(self, now: float, endpoint: Endpoint, task: str, began: float) -> None:
        self._times.append(now - began)
        self._busy[endpoint] -= 1
        endpoint.open_calls -= 1
        if self._queues[endpoint]:
            waiting, since = self._queues[endpoint].popleft()
            self._run(now, endpoint, waiting, since)
        self._open[task] -= 1
        if not self._open[task]:
            self._phase[task] += 1
            if self._phase[task] < PHASES:
                self._begin_phase(now, task)
