"""One attempt at a call: learn the endpoint's model and window, fit the answer into the window, stream, check."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from fleet.config import Settings
from fleet.errors import AgentCallError
from workers.llm import context_window as window
from workers.llm.endpoints import Card, Endpoint, card_of
from workers.llm.http import Http
from workers.llm.read_pacing import Pace, Stream
from workers.llm.roles import Ask
from workers.llm.sse import SseDecoder, StreamedAnswer

Wrote = Callable[[str, int, int], None]
"""Is told of new text: the text, tokens so far, tokens there may be."""


class Attempt:
    """What one attempt has heard so far, and how it ended. `error` None and `checked` set: well."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.heard = StreamedAnswer()
        self.endpoint: Endpoint | None = None
        self.model = ""
        self.checked: Any = None
        self.error: AgentCallError | None = None


class Attempts:
    """Makes all attempts of one process. To be made, and closed, on the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self._stall_timeout_s = settings.workers.stall_timeout_s
        self._http = Http(settings)
        self._pace = Pace()
        self._learning: dict[Endpoint, asyncio.Task[tuple[Card, ...]]] = {}

    async def close(self) -> None:
        for task in self._learning.values():
            task.cancel()
        await self._http.close()

    async def make(self, attempt: Attempt, endpoint: Endpoint, ask: Ask, request_id: str, wrote: Wrote) -> None:
        """Fills `attempt.heard`. Raises `AgentCallError`; left early, the connection is closed, and the model stops."""
        heard = attempt.heard
        card = await self._card(endpoint, ask.model)
        attempt.model = card.id
        max_tokens = await self._room(endpoint, ask, card)
        async with self._http.chat(endpoint, _body(ask, card, max_tokens), request_id) as response:
            try:
                with self._pace.stream() as stream:
                    await _listen(response, heard, stream, lambda text: wrote(text, heard.deltas, max_tokens))
            except aiohttp.ServerTimeoutError:
                silence = f"silent for {self._stall_timeout_s:g} s after {heard.deltas} pieces of text"
                raise AgentCallError("StreamStalled", silence, retryable=True) from None
            except aiohttp.ClientError:
                if not heard.complete:
                    raise _truncated(heard) from None
            if not heard.complete:
                raise _truncated(heard)
            if heard.done:
                await self._http.read_rest(response)

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


async def check_answer(heard: StreamedAnswer, check: Callable[[str], Awaitable[Any]]) -> Any:
    """What `check` says. Raises `AgentCallError` for an answer that is empty or not what was asked for."""
    if not heard.content.strip():
        thought = f", after {len(heard.reasoning)} characters of reasoning" if heard.reasoning else ""
        raise AgentCallError("EmptyResponse", f"no text (finish_reason {heard.finish_reason}){thought}", retryable=True)
    try:
        return await check(heard.content)
    except AgentCallError as error:
        if heard.finish_reason != "length":
            raise
        text = f"{error.error} (cut off at max_tokens: raise max_tokens of the role)"
        raise AgentCallError(error.error_type, text, retryable=error.retryable) from None


def _body(ask: Ask, card: Card, max_tokens: int) -> dict[str, Any]:
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
    return body


async def _listen(
    response: aiohttp.ClientResponse, heard: StreamedAnswer, stream: Stream, wrote: Callable[[str], None]
) -> None:
    decoder = SseDecoder()
    async for chunk in response.content.iter_any():
        text = "".join([heard.take(event) for event in decoder.feed(chunk) if not heard.done])
        if text:
            wrote(text)
        if heard.done:
            return
        await stream.rest(response, heard.deltas)
    text = "".join([heard.take(event) for event in decoder.finish()])
    if text:
        wrote(text)


def _truncated(heard: StreamedAnswer) -> AgentCallError:
    return AgentCallError("StreamTruncated", f"ended after {heard.deltas} pieces of text", retryable=True)
