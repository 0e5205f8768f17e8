"""Client of the OpenAI-compatible API: one call is as many attempts as it takes, within its deadline.

A failed attempt is an `AgentCallError`; `retry` says whether and when the next one comes, `endpoints` where it goes
(and waits for a breaker, if need be), `hedging` whether a slow one gets another beside it. An invalid answer is shown
to the model together with the complaint, and asked for once more.

The deadline is one timeout around all of it: nothing of a call outlives it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

from msgspec import Struct

from fleet.config import Settings
from fleet.errors import AgentCallError, ConfigError
from fleet.messages import Usage
from workers.llm.attempt import Attempt, Attempts, Wrote, check_answer
from workers.llm.endpoints import Endpoint, Endpoints, EndpointStatus
from workers.llm.failures import CONNECTION_TYPES
from workers.llm.hedging import OVERTAKEN, Durations, Making, Unheard, race
from workers.llm.retry import MAX_HEDGES, ask_again, wait_before_retry
from workers.llm.roles import Ask


class Answer(Struct, frozen=True, kw_only=True):
    """What the model wrote in its successful attempt. `usage` is that of all attempts, `tokens` of this one."""

    content: str
    checked: Any
    reasoning: str | None
    model: str
    tokens: int
    usage: Usage
    attempt: int


class GaveUp(AgentCallError):
    """No attempt succeeded: the last error, and what all attempts used."""

    def __init__(self, error: AgentCallError, attempt: int, usage: Usage) -> None:
        super().__init__(error.error_type, error.error, retryable=error.retryable)
        self.attempt = attempt
        self.usage = usage


class Watcher(Protocol):
    """Is told what a call does while it goes on, one attempt after the other. Must not block."""

    def began(self, attempt: int, after: AgentCallError | None) -> None: ...
    def wrote(self, text: str, tokens: int, max_tokens: int) -> None: ...
    def ended(self, tokens: int, error: AgentCallError | None) -> None: ...


class VllmClient:
    """All calls of one process. To be made on the event loop that uses it; `close` ends its connections."""

    def __init__(self, settings: Settings, *, rng: Random | None = None) -> None:
        if not settings.vllm_urls:
            raise ConfigError("VLLM_URL: a worker needs a model server, the simulator at least")
        self.max_attempts = settings.workers.max_attempts
        self.endpoints = Endpoints(settings.vllm_urls, settings.workers)
        self.durations = Durations(settings.workers.hedge_after)
        self.attempts = Attempts(settings)
        self.rng = rng or Random()

    async def close(self) -> None:
        await self.attempts.close()

    def status(self) -> tuple[EndpointStatus, ...]:
        return self.endpoints.status()

    async def complete(
        self,
        ask: Ask,
        *,
        request_id: str,
        check: Callable[[str], Awaitable[Any]],
        watcher: Watcher,
        first_attempt: int = 1,
    ) -> Answer:
        """Raises `GaveUp`. `check` turns the text into `Answer.checked`, or raises `AgentCallError` (InvalidAnswer)."""
        return await _Call(self, request_id, check, watcher, first_attempt).run(ask)


class _Call:
    """One call, while it is made."""

    def __init__(
        self,
        client: VllmClient,
        request_id: str,
        check: Callable[[str], Awaitable[Any]],
        watcher: Watcher,
        first_attempt: int,
    ) -> None:
        self._client = client
        self._request_id = request_id
        self._check = check
        self._watcher = watcher
        self._next = first_attempt
        self._errors: list[AgentCallError] = []
        self._used = Usage()
        self._hedges = 0
        self._told: Attempt | None = None
        """What the watcher was told of last, while it goes on."""

    async def run(self, ask: Ask) -> Answer:
        last: Endpoint | None = None
        try:
            async with asyncio.timeout(_remaining_s(ask)) as deadline:
                while True:
                    attempt = await self._try(ask, last)
                    if attempt.error is None:
                        return self._answer(attempt)
                    self._errors.append(attempt.error)
                    wait_s = wait_before_retry(
                        self._errors,
                        max_attempts=self._client.max_attempts,
                        remaining_s=_remaining_s(ask),
                        rng=self._client.rng,
                    )
                    if wait_s is None:
                        raise GaveUp(attempt.error, attempt.number, self._used)
                    ask, last = ask_again(ask, attempt.error, attempt.heard.content), attempt.endpoint
                    await asyncio.sleep(wait_s)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise GaveUp(self._late(), self._next - 1, self._used) from None

    async def _try(self, ask: Ask, last: Endpoint | None) -> Attempt:
        """An attempt that has ended, and perhaps another one beside it. The watcher hears of one at a time."""
        first = self._begin()
        self._tell(first)
        making = self._make(first, ask, self._watcher.wrote, last)
        late_after_s = None if self._hedges >= MAX_HEDGES else self._client.durations.late_after_s(ask.phase)
        if late_after_s is None:
            attempt = await making
        else:
            second = Unheard()

            def hedge() -> Making | None:
                if first.endpoint is None or self._client.endpoints.another(ask.model, first.endpoint) is None:
                    return None
                self._hedges += 1
                return self._make(self._begin(), ask, second.wrote, first.endpoint)

            attempt = await race(making, hedge, late_after_s)
            if attempt is not first:
                self._watcher.ended(first.heard.tokens, first.error or OVERTAKEN)
                self._tell(attempt, first.error or OVERTAKEN)
                second.tell(self._watcher.wrote)
        self._told = None
        self._watcher.ended(attempt.heard.tokens, attempt.error)
        return attempt

    def _begin(self) -> Attempt:
        attempt = Attempt(self._next)
        self._next += 1
        return attempt

    def _tell(self, attempt: Attempt, after: AgentCallError | None = None) -> None:
        self._told = attempt
        self._watcher.began(attempt.number, after or (self._errors[-1] if self._errors else None))

    async def _make(self, attempt: Attempt, ask: Ask, wrote: Wrote, avoid: Endpoint | None) -> Attempt:
        """The attempt, ended well or not. What it used is counted, however it ends."""
        client = self._client
        endpoint = attempt.endpoint = await client.endpoints.ready(ask.model, avoid)
        began = time.monotonic()
        try:
            with client.endpoints.attempt(endpoint):
                await client.attempts.make(attempt, endpoint, ask, f"{self._request_id}.{attempt.number}", wrote)
            attempt.checked = await check_answer(attempt.heard, self._check)
            client.durations.add(ask.phase, time.monotonic() - began)
        except AgentCallError as error:
            attempt.error = _blame(endpoint, error)
        finally:
            self._used += attempt.heard.usage
        return attempt

    def _answer(self, attempt: Attempt) -> Answer:
        heard = attempt.heard
        return Answer(
            content=heard.content,
            checked=attempt.checked,
            reasoning=heard.reasoning or None,
            model=attempt.model,
            tokens=heard.tokens,
            usage=self._used,
            attempt=attempt.number,
        )

    def _late(self) -> AgentCallError:
        """The deadline has passed: what to say of it, and whatever went wrong before."""
        before = f"; before that {self._errors[-1].error_type}: {self._errors[-1].error}" if self._errors else ""
        waiting = self._told is not None and self._told.endpoint is None
        where = " while every endpoint's breaker was open" if waiting else ""
        late = AgentCallError("DeadlineExceeded", f"the task's deadline has passed{where}{before}", retryable=False)
        if self._told is not None:
            self._watcher.ended(self._told.heard.tokens, late)
        return late


def _blame(endpoint: Endpoint, error: AgentCallError) -> AgentCallError:
    """The error with the endpoint's URL in it."""
    if error.error_type in CONNECTION_TYPES or error.error_type == "NotFound":
        endpoint.models = None  # It may come back with another model.
    return AgentCallError(
        error.error_type,
        f"{endpoint.shown}: {error.error}",
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
    )


def _remaining_s(ask: Ask) -> float:
    return ask.deadline_ms / 1000 - time.time()
