"""Chooses the model server that takes a call.

For each model that may answer, in the order of preference: of the endpoints that have it, have room, and did not
refuse it lately, the one that `routing` picks. A later model is asked only while no endpoint of an earlier one can.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from fleet.errors import AgentCallError
from fleet.limits.workers import Workers
from fleet.messages.workers import EndpointStatus
from fleet.model_servers import EndpointConfig
from fleet.tenants.names import name_of
from workers.llm.requests import ModelTarget
from workers.llm.servers.allowances import Allowances
from workers.llm.servers.attempt_end import OpenCall, answered_by, outcome_of
from workers.llm.servers.breaker import Breaker, Outcome
from workers.llm.servers.endpoint import Endpoint, rules_of
from workers.llm.servers.queue import Queue, Waiting
from workers.llm.servers.routing import Routing
from workers.llm.servers.search import Nowhere, Route, Search

log = structlog.get_logger(__name__)

LOOK_AGAIN_S = 1.0
"""A call that waits looks again after this long, whatever it is told."""
WOKEN_BY_A_SEAT = 4


class Endpoints:
    """All endpoints that one process knows."""

    def __init__(
        self,
        servers: Mapping[str, EndpointConfig],
        limits: Workers | None = None,
        clock: Callable[[], float] = time.monotonic,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """`weights`: of tenants."""
        limits = limits or Workers()
        rules = rules_of(
            limits.breaker_failures,
            limits.breaker_share,
            limits.breaker_cool_down_s,
            limits.breaker_longest_cool_down_s,
        )
        self.clock = clock
        self.all = tuple(Endpoint(name, config, rules) for name, config in servers.items())
        self._routing = Routing(limits.count)
        self._queue = Queue(weights or {})
        self._by_tokens = {name for name, config in servers.items() if config.tokens_per_minute is not None}
        self.allowances = Allowances(
            {each.name: each.allowance for each in self.all}, self._wanting, self._granted, clock
        )

    def leave_out(self, endpoint: Endpoint) -> None:
        """It cannot be used at all."""
        self.all = tuple(each for each in self.all if each is not endpoint)

    def status(self) -> tuple[EndpointStatus, ...]:
        now = self.clock()
        return tuple(each.status(now, len(self._wanting(each.name))) for each in self.all)

    def waiting(self) -> dict[str, int]:
        """Calls that wait, by the model that they ask for first."""
        return dict(Counter(waiting.model for waiting in self._queue))

    def choose(self, search: Search) -> Route | None:
        """Where an attempt goes now; None: nobody can take it just now. Raises `Nowhere`.

        The endpoint that just failed is left out while another one has the model, and, if it could not be reached,
        while another model can do.
        """
        now = self.clock()
        spare: list[tuple[ModelTarget, list[Endpoint]]] = []
        anybody = False
        for target in search.targets:
            able = self._able(target, search)
            anybody = anybody or bool(able)
            ready = [endpoint for endpoint in able if self._admits(endpoint, target, search, now)]
            if not ready:
                continue
            willing = [each for each in ready if not each.refuses(target.name, now) and not _lacks(each, target)]
            others = [endpoint for endpoint in willing if endpoint is not search.failed]
            if not others and not search.unreachable:
                others = willing
            if others:
                return self._picked(target, others, search)
            spare.append((target, ready))
        if not anybody:
            raise Nowhere
        for target, ready in spare:
            others = [endpoint for endpoint in ready if endpoint is not search.failed]
            return self._picked(target, others or ready, search)
        return None

    def another(self, search: Search) -> Route | None:
        """What `choose` says, if that is another endpoint than the one of `search.failed`, for the same model."""
        try:
            route = self.choose(search)
        except Nowhere:
            return None
        return None if route is None or route.endpoint is search.failed else route

    async def ready(self, search: Search) -> Route:
        """What `choose` says, as soon as it names an endpoint. The attempt must begin at once. Raises `Nowhere`."""
        woken = asyncio.Event()
        try:
            while True:
                route = self.choose(search)
                if route is not None and route.endpoint.allowance.has(self.clock()):
                    self._routing.begin(search.task_id, route.endpoint)
                    return route
                await self._wait(search, route, woken)
        finally:
            self._queue.drop(woken, search.tenant)

    async def _wait(self, search: Search, route: Route | None, woken: asyncio.Event) -> None:
        """In the queue, until something may have changed. `route`: its endpoint may have room."""
        wants = self._well(search) if route is None else frozenset({route.endpoint.name})
        waiting = Waiting(
            tenant=search.tenant,
            is_suspect=search.suspect,
            expected_tokens=search.expected_tokens,
            wants=wants,
            asks=route is not None,
            model=search.targets[0].name or "any model",
        )
        woken.clear()
        self._queue.put(woken, waiting)
        if wants:
            self.allowances.ask()
        try:
            async with asyncio.timeout(self._wait_s(search)):
                await woken.wait()
        except TimeoutError:
            pass  # A cool-down or a pause is over: whoever comes first goes first.

    @contextmanager
    def attempt(
        self, endpoint: Endpoint, task_id: str = "", expected_tokens: int = 0, model: str | None = None
    ) -> Iterator[OpenCall]:
        """One attempt: the breaker of the model there counts how the block ends, the allowance what was used."""
        breaker, now = endpoint.breaker(model), self.clock()
        was = breaker.state(now)
        era = breaker.begin(now)
        tenant = name_of(task_id).tenant
        endpoint.open_calls += 1
        self._queue.begun(tenant, expected_tokens)
        taken = endpoint.allowance.begin()
        call = OpenCall()
        failure: AgentCallError | None = None
        outcome: Outcome = "succeeded"
        try:
            yield call
        except AgentCallError as error:
            failure, outcome = error, outcome_of(error)
            if outcome in ("failed", "failed at it"):
                endpoint.failed(error, self.clock())
            raise
        except BaseException:
            outcome = "abandoned"
            raise
        finally:
            endpoint.open_calls -= 1
            began, now, opened = now, self.clock(), breaker.opened
            self._queue.ended(
                tenant, call.used_tokens, now - began, complete=failure is None and outcome == "succeeded"
            )
            endpoint.allowance.end(taken, expected_tokens, call.used_tokens)
            breaker.end(era, outcome, now, task_id)
            if (answered := answered_by(failure, outcome)) is not None:
                endpoint.note_answer(answered, now)
            if breaker.opened > opened:
                self._note_open(endpoint, breaker, model, failure, now)
            elif was != "closed" and breaker.state(now) == "closed":
                log.info("breaker.closed", endpoint=endpoint.shown, model=model)
            if was != "closed":
                self._queue.wake_all()
            else:
                self._queue.wake(endpoint.name, WOKEN_BY_A_SEAT)
            if endpoint.allowance.limited and any(self._queue):
                self.allowances.ask()

    def _note_open(
        self, endpoint: Endpoint, breaker: Breaker, model: str | None, failure: AgentCallError | None, now: float
    ) -> None:
        if endpoint.breaker_state(now) == "open":
            self._routing.forget(endpoint.name)
        error_type = failure.error_type if failure else None
        facts = {"endpoint": endpoint.shown, "model": model, "cool_down_s": breaker.cool_down_s}
        log.warning("breaker.opened", error_type=error_type, **facts)

    def _wanting(self, endpoint: str) -> list[int]:
        """Expected tokens of the calls that would begin there; where a rate counts these, of the next one first."""
        return [each.expected_tokens for each in self._queue.wanting(endpoint, in_turn=endpoint in self._by_tokens)]

    def _granted(self, endpoint: str, calls: int) -> None:
        """So many of those may begin now. Who only asked whether there is room looks elsewhere if there is none."""
        self._queue.wake(endpoint, calls)
        self._queue.wake_who_asks(endpoint)

    def _well(self, search: Search) -> frozenset[str]:
        """Endpoints that lack nothing but room."""
        now = self.clock()
        return frozenset(
            endpoint.name
            for target in search.targets
            for endpoint in self._able(target, search)
            if self._is_well(endpoint, target, search, now)
        )

    def _able(self, target: ModelTarget, search: Search) -> list[Endpoint]:
        """Endpoints that may have the model and have not refused this call. Lists may be wrong: where every list lacks
        the model, the servers have the last word.
        """
        allowed = [
            endpoint
            for endpoint in self.all
            if not endpoint.is_not_for(target.name) and (target.endpoints is None or endpoint.name in target.endpoints)
        ]
        having = [endpoint for endpoint in allowed if not endpoint.lacks(target.name)]
        able = having or [endpoint for endpoint in allowed if not _lacks(endpoint, target)] or allowed
        if not search.refused:
            return able
        return [endpoint for endpoint in able if (endpoint.name, target.name) not in search.refused]

    def _admits(self, endpoint: Endpoint, target: ModelTarget, search: Search, now: float) -> bool:
        return endpoint.allowance.may_have(now) and self._is_well(endpoint, target, search, now)

    def _is_well(self, endpoint: Endpoint, target: ModelTarget, search: Search, now: float) -> bool:
        breaker = endpoint.breaker(target.name)
        if not breaker.admits(now) or now < endpoint.paused_until:
            return False
        if search.suspect and breaker.state(now) != "closed":
            # The probe is for a call that is surely sound.
            return all(waiting.is_suspect for waiting in self._queue)
        return True

    def _picked(self, target: ModelTarget, endpoints: Sequence[Endpoint], search: Search) -> Route:
        return Route(self._routing.pick(search.task_id, endpoints), target)

    def _wait_s(self, search: Search) -> float:
        """Until something may change by itself."""
        now = self.clock()
        waits = [LOOK_AGAIN_S]
        for target in search.targets:
            for endpoint in self._able(target, search):
                cool_down_s = endpoint.breaker(target.name).wait_s(now)
                if cool_down_s is None:
                    continue
                known = (cool_down_s, endpoint.paused_until - now)
                if (longest := max(known)) > 0:
                    waits.append(longest)
        return min(waits)


def _lacks(endpoint: Endpoint, target: ModelTarget) -> bool:
    """Whether the model is not there, and cannot be loaded."""
    return endpoint.lacks(target.name) and not endpoint.may_load(target.name, target.base, target.adapter)
