"""Client of the OpenAI-compatible API: one call is as many attempts as it takes, within its deadline.

An attempt: choose an endpoint, learn its model and window, fit the answer into the window, stream, check. A failure
is an `AgentCallError`; `workers.retry` says whether and when the next attempt comes. An invalid answer is shown to the
model together with the complaint, and asked for once more.
"""

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import aiohttp
from msgspec import Struct, structs

from fleet.config import Settings
from fleet.errors import AgentCallError, ConfigError
from fleet.messages import ChatMessage, Usage
from workers import window
from workers.endpoints import Card, Endpoint, Endpoints, card_of
from workers.failures import CONNECTION_TYPES
from workers.http import Http
from workers.retry import wait_before_retry
from workers.roles import Ask
from workers.sse import SseDecoder, StreamedAnswer

SEED_STRIDE = 1_000_003
"""Between tries whose answers were no good: the same seed would say the same again, the next one is another agent's."""


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
    """Is told what a call does while it goes on. Must not block."""

    def began(self, attempt: int, after: AgentCallError | None) -> None: ...
    def wrote(self, text: str, tokens: int, max_tokens: int) -> None: ...
    def ended(self, tokens: int, error: AgentCallError | None) -> None: ...


class VllmClient:
    """All calls of one process. To be made on the event loop that uses it; `close` ends its connections."""

    def __init__(self, settings: Settings, *, rng: Random | None = None) -> None:
        if not settings.vllm_urls:
            raise ConfigError("VLLM_URL: a worker needs a model server, the simulator at least")
        self._limits = settings.workers
        self._endpoints = Endpoints(settings.vllm_urls)
        self._http = Http(settings)
        self._rng = rng or Random()
        self._learning: dict[Endpoint, asyncio.Task[tuple[Card, ...]]] = {}

    async def close(self) -> None:
        for task in self._learning.values():
            task.cancel()
        await self._http.close()

    async def complete(
        self,
        ask: Ask,
        *,
        request_id: str,
        check: Callable[[str], Any],
        watcher: Watcher,
        first_attempt: int = 1,
    ) -> Answer:
        """Raises `GaveUp`. `check` turns the text into `Answer.checked`, or raises `AgentCallError` (InvalidAnswer)."""
        used, endpoint, heard = Usage(), None, StreamedAnswer()
        attempt, errors = first_attempt, list[AgentCallError]()
        try:
            async with asyncio.timeout(_remaining_s(ask)) as deadline:
                while True:
                    attempt, heard = first_attempt + len(errors), StreamedAnswer()
                    watcher.began(attempt, errors[-1] if errors else None)
                    endpoint = self._endpoints.choose(ask.model, endpoint)
                    try:
                        with endpoint.taken():
                            model = await self._attempt(endpoint, ask, f"{request_id}.{attempt}", heard, watcher)
                        checked = _checked(heard, check)
                    except AgentCallError as error:
                        used += heard.usage
                        last = self._blame(endpoint, error)
                        errors.append(last)
                        watcher.ended(heard.tokens, last)
                        wait_s = wait_before_retry(
                            errors,
                            max_attempts=self._limits.max_attempts,
                            remaining_s=_remaining_s(ask),
                            rng=self._rng,
                        )
                        if wait_s is None:
                            raise GaveUp(last, attempt, used) from None
                        ask = _again(ask, last, heard)
                        heard = StreamedAnswer()
                        await asyncio.sleep(wait_s)
                    else:
                        watcher.ended(heard.tokens, None)
                        return Answer(
                            content=heard.content,
                            checked=checked,
                            reasoning=heard.reasoning or None,
                            model=model,
                            tokens=heard.tokens,
                            usage=used + heard.usage,
                            attempt=attempt,
                        )
        except TimeoutError:
            if not deadline.expired():
                raise
            before = f"; before that {errors[-1].error_type}: {errors[-1].error}" if errors else ""
            late = AgentCallError("DeadlineExceeded", f"the task's deadline has passed{before}", retryable=False)
            watcher.ended(heard.tokens, late)
            raise GaveUp(late, attempt, used + heard.usage) from None

    async def _attempt(
        self, endpoint: Endpoint, ask: Ask, request_id: str, heard: StreamedAnswer, watcher: Watcher
    ) -> str:
        """Fills `heard`; returns the model's name."""
        card = await self._card(endpoint, ask.model)
        max_tokens = await self._room(endpoint, ask, card)
        body: dict[str, Any] = {
            "model": card.id,
            "messages": ask.messages,
            "temperature": ask.temperature,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.seed is not None:
            body["seed"] = ask.seed
        if ask.answer_schema is not None:
            schema = {"name": "answer", "schema": ask.answer_schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        async with self._http.chat(endpoint, body, request_id) as response:
            try:
                await self._listen(response, heard, lambda text: watcher.wrote(text, heard.deltas, max_tokens))
            except aiohttp.ServerTimeoutError:
                silence = f"silent for {self._limits.stall_timeout_s:g} s after {heard.deltas} pieces of text"
                raise AgentCallError("StreamStalled", silence, retryable=True) from None
            except aiohttp.ClientError:
                if not heard.complete:
                    raise _truncated(heard) from None
            if not heard.complete:
                raise _truncated(heard)
            if heard.done:
                await self._http.read_rest(response)
        return card.id

    async def _listen(
        self, response: aiohttp.ClientResponse, heard: StreamedAnswer, wrote: Callable[[str], None]
    ) -> None:
        decoder = SseDecoder()
        async for chunk in response.content.iter_any():
            text = "".join([heard.take(event) for event in decoder.feed(chunk) if not heard.done])
            if text:
                wrote(text)
            if heard.done:
                return
        text = "".join([heard.take(event) for event in decoder.finish()])
        if text:
            wrote(text)

    async def _card(self, endpoint: Endpoint, model: str | None) -> Card:
        """What the endpoint says of the model. Asked once, by one call for all that wait."""
        models = endpoint.models
        if models is None:
            task = self._learning.get(endpoint)
            if task is None:
                task = self._learning[endpoint] = asyncio.create_task(self._http.models(endpoint))
                task.add_done_callback(lambda done: self._learned(endpoint, done))
            try:
                # Not `endpoint.models`: another call's failure may have cleared it again by now.
                models = await asyncio.shield(task)
            except AgentCallError as error:
                # A server without a list is of use to those who name the model.
                if model is None or error.retryable or error.error_type == "Unauthorized":
                    raise
                models = endpoint.models = (Card(model, None),)
        return card_of(models, model)

    def _learned(self, endpoint: Endpoint, task: asyncio.Task[tuple[Card, ...]]) -> None:
        self._learning.pop(endpoint, None)
        if not task.cancelled() and task.exception() is None:
            endpoint.models = task.result()

    async def _room(self, endpoint: Endpoint, ask: Ask, card: Card) -> int:
        """`max_tokens` as the window allows. Raises `AgentCallError` (ContextOverflow)."""
        limit = ask.context_window or card.window
        if limit is None:
            return ask.max_tokens
        tokens = window.estimate_tokens(ask.messages)
        if window.surely_fits(tokens, ask.max_tokens, limit):
            return ask.max_tokens
        if endpoint.counts_tokens:
            try:
                tokens = await self._http.count_tokens(endpoint, card.id, ask.messages)
            except AgentCallError as error:
                # Without /tokenize (or vLLM's form of it) the estimate stands; the server has the last word.
                endpoint.counts_tokens = error.retryable and error.error_type != "MalformedResponse"
        setting = (
            f"raise context_window in [roles.{ask.role}]"
            if ask.context_window
            else f"raise vLLM's --max-model-len (or set context_window in [roles.{ask.role}])"
        )
        return window.answer_tokens(tokens, ask.max_tokens, limit, setting=setting)

    def _blame(self, endpoint: Endpoint, error: AgentCallError) -> AgentCallError:
        """The error with the endpoint's URL in it; what it says of the endpoint is remembered."""
        if error.error_type in CONNECTION_TYPES:
            self._endpoints.cool_down(endpoint)
        if error.error_type in CONNECTION_TYPES or error.error_type == "NotFound":
            endpoint.models = None  # It may come back with another model.
        return AgentCallError(
            error.error_type,
            f"{endpoint.shown}: {error.error}",
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
        )


def _checked(heard: StreamedAnswer, check: Callable[[str], Any]) -> Any:
    """Raises `AgentCallError` for an answer that is empty or not what was asked for."""
    if not heard.content.strip():
        thought = f", after {len(heard.reasoning)} characters of reasoning" if heard.reasoning else ""
        raise AgentCallError("EmptyResponse", f"no text (finish_reason {heard.finish_reason}){thought}", retryable=True)
    try:
        return check(heard.content)
    except AgentCallError as error:
        if heard.finish_reason != "length":
            raise
        text = f"{error.error} (cut off at max_tokens: raise max_tokens of the role)"
        raise AgentCallError(error.error_type, text, retryable=error.retryable) from None


def _again(ask: Ask, error: AgentCallError, heard: StreamedAnswer) -> Ask:
    """What to ask next time: the same after a failure of the server, something else after a bad answer."""
    match error.error_type:
        case "EmptyResponse":
            return structs.replace(ask, seed=_next(ask.seed))
        case "InvalidAnswer":
            form = "" if ask.answer_schema is None else ", in valid JSON only"
            complaint = f"That answer is not valid: {error.error.partition(': ')[2]}\nAnswer again{form}."
            return structs.replace(
                ask,
                seed=_next(ask.seed),
                messages=(
                    *ask.messages,
                    ChatMessage(role="assistant", content=heard.content),
                    ChatMessage(role="user", content=complaint),
                ),
            )
        case _:
            return ask


def _next(seed: int | None) -> int | None:
    return None if seed is None else (seed + SEED_STRIDE) % 2**63


def _truncated(heard: StreamedAnswer) -> AgentCallError:
    return AgentCallError("StreamTruncated", f"ended after {heard.deltas} pieces of text", retryable=True)


def _remaining_s(ask: Ask) -> float:
    return ask.deadline_ms / 1000 - time.time()
