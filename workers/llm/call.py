"""Makes one call: attempts one after the other, or two at once where the first is late."""

import asyncio
import time
from dataclasses import dataclass
from random import Random

from fleet.clock import now_ms
from fleet.errors import AgentCallError
from fleet.limits.workers import Workers
from workers.llm.attempt import Attempt, Attempts, Check, TextSink, WrongEndpoint, chat_context
from workers.llm.call_history import CallHistory
from workers.llm.failures import AttemptError, of
from workers.llm.hedging import OVERTAKEN, AttemptCoroutine, BufferedText, Durations, race
from workers.llm.outcome import Answer, CallWatcher, GaveUp
from workers.llm.requests import ModelRequest
from workers.llm.retry import MAX_HEDGES, next_step
from workers.llm.servers.endpoints import Endpoints
from workers.llm.servers.search import Nowhere, Route, Search
from workers.llm.spending import Spending
from workers.llm.tally import Tally
from workers.llm.verdict import judge

PATIENCE = 3
"""The first token may take this many times the silence that is allowed between two, where no setting says more."""
SHARE_OF_DEADLINE = 3
"""While another endpoint can take the call, none may use more than this part of the time left for its first token."""


@dataclass(frozen=True)
class Shared:
    """What all calls of one process share."""

    limits: Workers
    endpoints: Endpoints
    durations: Durations
    attempts: Attempts
    rng: Random


class ModelCall:
    """One agent call at the model servers, with its retries."""

    def __init__(
        self, shared: Shared, request_id: str, check: Check, watcher: CallWatcher, first: int, tally: Tally
    ) -> None:
        self._shared = shared
        self._request_id = request_id
        self._check = check
        self._watcher = watcher
        self._next = first
        self._history = CallHistory(shared.endpoints)
        self._spent = Spending()
        self._tally = tally
        self._hedges = 0
        self._told: Attempt | None = None
        """What the watcher was told of last, while it goes on."""

    async def run(self, request: ModelRequest) -> Answer:
        """Raises `GaveUp`."""
        try:
            async with asyncio.timeout(_remaining_s(request)) as deadline:
                while True:
                    attempt = await self._try(request)
                    if attempt.error is None:
                        return self._answer(attempt)
                    request = await self._after(attempt, attempt.error, request)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._gave_up(self._late(request)) from None
        except Nowhere:
            raise self._gave_up(self._history.nowhere(request)) from None

    async def _after(self, attempt: Attempt, error: AttemptError, request: ModelRequest) -> ModelRequest:
        """Waits, and says what to ask next. Raises `GaveUp`."""
        history = self._history
        if isinstance(error, WrongEndpoint) or history.adapted(attempt, error, request):
            return request
        history.note(attempt, error)
        step = next_step(
            history.errors,
            request,
            attempt.content or attempt.streamed.content,
            max_tokens=attempt.max_tokens,
            max_attempts=self._shared.limits.max_attempts,
            remaining_s=_remaining_s(request),
            elsewhere=history.has_another(request) if error.fault == "endpoint" else history.has_fresh(request),
            rng=self._shared.rng,
        )
        if step is None:
            raise self._gave_up(history.first_cause(error))
        if step.request.messages is not request.messages:
            history.note_other_prompt()
        if step.wait_s > 0:
            history.note_wait()
            await asyncio.sleep(step.wait_s)
        return step.request

    def _gave_up(self, error: AgentCallError) -> GaveUp:
        invalid = None if self._history.invalid is None else self._answer(self._history.invalid)
        return GaveUp(error, self._next - 1, self._spent, invalid, self._tally.facts())

    # --- attempts ---------------------------------------------------------------------------------------------------

    async def _try(self, request: ModelRequest) -> Attempt:
        """An attempt that has ended, and perhaps another one beside it. The watcher hears of one at a time."""
        first = self._begin()
        self._tell(first)
        making = self._make(first, request, self._watcher, None)
        may_hedge = self._hedges < MAX_HEDGES and request.judge is None
        late_after_s = self._shared.durations.late_after_s(request.phase) if may_hedge else None
        if late_after_s is None:
            attempt = await making
        else:
            second = BufferedText()

            def hedge() -> AttemptCoroutine | None:
                if first.route is None or self._shared.endpoints.another(self._history.search(request, first)) is None:
                    return None
                self._hedges += 1
                return self._make(self._begin(), request, second, first)

            attempt = await race(making, hedge, late_after_s)
            self._tally.raced(first, attempt)
            if attempt is not first:
                self._watcher.ended(first.streamed.tokens, first.error or OVERTAKEN)
                self._tell(attempt, first.error or OVERTAKEN)
                second.pass_on(self._watcher)
        self._told = None
        self._watcher.ended(attempt.streamed.tokens, attempt.error)
        return attempt

    def _begin(self) -> Attempt:
        attempt = Attempt(self._next)
        self._next += 1
        return attempt

    def _tell(self, attempt: Attempt, after: AgentCallError | None = None) -> None:
        self._told = attempt
        errors = self._history.errors
        self._watcher.began(attempt.number, after or (errors[-1] if errors else None))

    async def _make(self, attempt: Attempt, request: ModelRequest, sink: TextSink, beside: Attempt | None) -> Attempt:
        """The attempt, ended well or not. What it used is counted, however it ends. Raises `Nowhere`."""
        shared = self._shared
        search = self._history.search(request, beside)
        route = attempt.route = await shared.endpoints.ready(search)
        self._tally.add(attempt)
        began, attempt.began_ns = time.monotonic(), time.time_ns()
        try:
            used = (request.task_id, search.expected_tokens, route.target.name)
            with shared.endpoints.attempt(route.endpoint, *used) as open_call:
                try:
                    await shared.attempts.make(
                        attempt,
                        request,
                        self._headers(attempt, request),
                        sink,
                        first_token_s=self._first_token_s(route, request, search),
                        prompt_tokens=self._history.prompt_tokens(route),
                    )
                    await judge(attempt, request, self._check)
                finally:
                    open_call.used_tokens = attempt.streamed.usage.total
            if request.judge is None:
                shared.durations.add(request.phase, time.monotonic() - began)
            self._history.note_success(route)
            attempt.outcome = "completed"
        except AgentCallError as error:
            attempt.error = of(error).at(route.endpoint.shown)
            self._tally.failed(attempt, error)
        finally:
            attempt.ended_ns = time.time_ns()
            model, price = attempt.streamed.model or attempt.model, route.endpoint.config.price
            self._spent = self._spent.plus(model, attempt.streamed.usage, price)
        return attempt

    def _first_token_s(self, route: Route, request: ModelRequest, search: Search) -> float:
        limits, config = self._shared.limits, route.endpoint.config
        first_s = config.first_token_timeout_s or limits.first_token_timeout_s or PATIENCE * limits.stall_timeout_s
        first_s *= 2.0**self._history.impatient
        if self._history.has_beside(route, search):
            first_s = min(first_s, max(limits.stall_timeout_s, _remaining_s(request) / SHARE_OF_DEADLINE))
        return first_s

    def _headers(self, attempt: Attempt, request: ModelRequest) -> dict[str, str]:
        headers = {"X-Request-Id": f"{self._request_id}.{attempt.number}"}
        if request.task_id:
            headers["X-Session-ID"] = request.task_id
        if request.trace is not None:
            headers["traceparent"] = str(chat_context(request.trace, attempt.number))
        return headers

    # --- the end ----------------------------------------------------------------------------------------------------

    def _answer(self, attempt: Attempt) -> Answer:
        streamed, route = attempt.streamed, attempt.route
        assert route is not None
        notes = list(attempt.form.notes if attempt.form else ())
        if route.target.stands_in:
            notes.append(route.target.stands_in)
        if attempt.truncated:
            notes.append(f"a text was cut off (finish_reason {streamed.finish_reason}) and taken as it is")
        return Answer(
            content=attempt.content,
            checked=attempt.checked,
            reasoning=streamed.reasoning or None,
            model=streamed.model or attempt.model,
            tokens=streamed.tokens,
            spent=self._spent,
            attempt=attempt.number,
            finish_reason=streamed.finish_reason,
            truncated=attempt.truncated,
            endpoint=route.endpoint.name,
            facts=self._tally.facts(attempt),
            notes=tuple(notes),
            stands_in=bool(route.target.stands_in),
        )

    def _late(self, request: ModelRequest) -> AgentCallError:
        """The deadline has passed: what to say of it, and whatever went wrong before."""
        errors = self._history.errors
        before = f"; before that {errors[-1].error_type}: {errors[-1].error}" if errors else ""
        waiting = self._told is not None and self._told.route is None
        where = " while every endpoint's breaker was open, or had no room" if waiting else ""
        over = "the task's deadline has passed"
        if request.judge is not None:
            over = "the time of a judge's call (timeout_s, within the task's deadline) has passed"
        late = AgentCallError("DeadlineExceeded", f"{over}{where}{before}", retryable=False)
        if self._told is not None:
            self._watcher.ended(self._told.streamed.tokens, late)
        return late


def _remaining_s(request: ModelRequest) -> float:
    return (request.deadline_ms - now_ms()) / 1000
