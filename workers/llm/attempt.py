"""Makes one attempt at a call: learns the model and its window, fits the answer into it, streams, judges the end."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import structlog

from fleet.config import Settings
from fleet.messages.trace_ids import TraceContext
from workers.llm.failures import CONNECTION_TYPES, NO_ANSWER, AttemptError
from workers.llm.http import Http
from workers.llm.reading.answer import StreamedAnswer
from workers.llm.reading.read_pacing import ReadPacing
from workers.llm.reading.response import read_answer
from workers.llm.reading.silence import Silence
from workers.llm.requests import ModelRequest, ModelTarget
from workers.llm.servers import context_window as window
from workers.llm.servers.dialects import Form, body_of
from workers.llm.servers.endpoint import Endpoint, ModelCard
from workers.llm.servers.rewards import Rewards
from workers.llm.servers.search import Route

log = structlog.get_logger(__name__)

Check = Callable[[str], Awaitable[Any]]
"""Turns a text into what was asked for, or raises `AgentCallError` (InvalidAnswer)."""


class TextSink(Protocol):
    """Is told of text as it comes: the text, tokens so far, tokens there may be. Must not block."""

    def wrote(self, text: str, tokens: int, max_tokens: int) -> None: ...


class Attempt:
    """What one attempt has heard so far, and how it ended. `error` None and `checked` set: well."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.streamed = StreamedAnswer()
        self.route: Route | None = None
        self.model = ""
        self.max_tokens = 0
        self.sent: dict[str, Any] = {}
        self.form: Form | None = None
        self.lessons = 0
        """Of the form, when this was sent."""
        self.checked: Any = None
        self.content = ""
        self.truncated = False
        self.waited_for_first = False
        """Whether it was given up before the first piece of text."""
        self.first_token_s: float | None = None
        self.began_ns = 0
        self.ended_ns = 0
        """Since 1970; 0: not yet."""
        self.outcome: str | None = None
        """`completed`, or an error type; None while it goes on, and where the deadline ends it."""
        self.error: AttemptError | None = None


def chat_context(parent: TraceContext, number: int) -> TraceContext:
    """The span of one attempt, below that of its call."""
    return parent.child(parent.span_id, "chat", number)


class WrongEndpoint(AttemptError):
    """The endpoint's list, just learned, lacks the model: the call is placed anew before anything is sent."""


class Attempts:
    """Makes all attempts of one process. To be made, and closed, on the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.workers
        self._http = Http(settings.workers)
        self._rewards = Rewards(self._http)
        self._pacing = ReadPacing()
        self._loads: dict[tuple[Endpoint, str], asyncio.Lock] = {}
        self._learning: dict[Endpoint, asyncio.Task[tuple[ModelCard, ...]]] = {}

    def know(self, endpoint: Endpoint) -> None:
        """Raises `ConfigError` for a key or a certificate that is not there."""
        self._http.know(endpoint)

    async def close(self) -> None:
        for task in self._learning.values():
            task.cancel()
        await self._http.close()

    async def look(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        """Asks for its list, to know whether it is there at all."""
        error: AttemptError | None = None
        try:
            await self._learn(endpoint)
        except AttemptError as failed:
            error = failed
        endpoint.note_answer(error is None or error.error_type not in NO_ANSWER, clock())

    async def make(
        self,
        attempt: Attempt,
        request: ModelRequest,
        headers: dict[str, str],
        sink: TextSink,
        *,
        first_token_s: float,
        prompt_tokens: int | None = None,
    ) -> None:
        """Fills `attempt` in. Raises `AttemptError`; left early, the connection is closed, and the model stops.

        `prompt_tokens`: what the endpoint has said of this very prompt.
        """
        assert attempt.route is not None
        endpoint, streamed = attempt.route.endpoint, attempt.streamed
        silence = Silence(first_token_s, endpoint.config.stall_timeout_s or self._limits.stall_timeout_s)
        try:
            async with silence:
                await self._make(attempt, attempt.route, request, headers, sink, silence, prompt_tokens)
        except AttemptError as error:
            raise self._http.hide(endpoint, error) from None
        except TimeoutError:
            if streamed.finished:
                return
            if not streamed.began:
                attempt.waited_for_first = True
                text = f"no response within {silence.limit_s:g} s"
                raise AttemptError("Timeout", text, fault="server") from None
            attempt.waited_for_first = streamed.pieces == 0
            text = f"silent for {silence.limit_s:g} s after {streamed.pieces} pieces of text"
            raise AttemptError("StreamStalled", text, fault="server") from None
        finally:
            attempt.first_token_s = silence.first_after_s

    async def _make(
        self,
        attempt: Attempt,
        route: Route,
        request: ModelRequest,
        headers: dict[str, str],
        sink: TextSink,
        silence: Silence,
        prompt_tokens: int | None,
    ) -> None:
        endpoint, streamed = route.endpoint, attempt.streamed
        card = await self._card(route)
        attempt.model = card.id
        streamed.prompt_bytes = sum(len(message.content) for message in request.messages)
        if request.judge is not None:
            streamed.take_whole(*await self._rewards.ask(endpoint, card.id, request, headers))
            return
        attempt.form = form = endpoint.form(card.id)
        attempt.max_tokens = max_tokens = await self._room(route, request, card, prompt_tokens)
        config = endpoint.config
        attempt.lessons = form.lessons
        attempt.sent = body_of(form, request, card.id, max_tokens, config.request, priority=config.priority)
        if request.more_than and attempt.sent.get(form.max_tokens_field, max_tokens) <= request.more_than:
            text = f"the text was cut off at max_tokens {request.more_than}, and there is no more room for it"
            raise AttemptError("Truncated", text, fault="answer", begun=False)
        async with self._http.chat(endpoint, attempt.sent, headers) as response:
            streamed.began = True
            with self._pacing.stream() as stream:
                wrote = partial(_wrote, sink, streamed, max_tokens)
                await read_answer(response, self._http.hiding(endpoint), streamed, silence, stream, wrote)
            if streamed.done:
                await self._http.read_rest(response)

    async def _card(self, route: Route) -> ModelCard:
        """The model that is asked. A list is asked for once, by one call for all that wait; a model that is named
        needs none. Raises `AttemptError`.
        """
        endpoint, name = route.endpoint, route.target.name
        if endpoint.models is None and not (endpoint.list_failed and endpoint.card(name) is not None):
            try:
                await self._learn(endpoint)
            except AttemptError as error:
                gone = error.error_type in CONNECTION_TYPES and not error.begun and error.error_type != "Timeout"
                if endpoint.card(name) is None or gone:
                    raise
                endpoint.list_failed = True
            if endpoint.lacks(name):
                raise WrongEndpoint("NotFound", f"the model {name} is not on its list", fault="endpoint", begun=False)
        if endpoint.may_load(name, route.target.base, route.target.adapter):
            await self._load(endpoint, route.target)
        card = endpoint.card(name)
        if card is None:
            text = "the server lists no model: set VLLM_MODEL, or the model of the role"
            raise AttemptError("NotFound", text, fault="endpoint", begun=False)
        return card

    async def _load(self, endpoint: Endpoint, target: ModelTarget) -> None:
        """Once for all calls that wait for the adapter. Raises `WrongEndpoint` where the server does not load it."""
        assert target.name is not None
        assert target.adapter is not None
        async with self._loads.setdefault((endpoint, target.name), asyncio.Lock()):
            if not endpoint.may_load(target.name, target.base, target.adapter):
                return  # another call has had the answer meanwhile
            try:
                await self._http.load_adapter(endpoint, target.name, target.adapter)
                log.info("adapter.loaded", endpoint=endpoint.name, model=target.name)
            except (AttemptError, TimeoutError) as error:
                # Another worker may have loaded it just now: the list decides.
                log.info("adapter.not_loaded", endpoint=endpoint.name, model=target.name, error=str(error))
            endpoint.models = None
            await self._learn(endpoint)
            if endpoint.lacks(target.name):
                endpoint.not_loaded(target.name)
                text = f"the adapter {target.name} is not there, and is not loaded"
                raise WrongEndpoint("NotFound", text, fault="endpoint", begun=False)

    async def _learn(self, endpoint: Endpoint) -> None:
        task = self._learning.get(endpoint)
        if task is None:
            task = self._learning[endpoint] = asyncio.create_task(self._http.models(endpoint))
            task.add_done_callback(lambda done: self._learned(endpoint, done))
        models = await asyncio.shield(task)
        # The task may have ended before its callback has run, or another call's failure has cleared the list again.
        if endpoint.models is None:
            endpoint.models = models

    def _learned(self, endpoint: Endpoint, task: asyncio.Task[tuple[ModelCard, ...]]) -> None:
        self._learning.pop(endpoint, None)
        if not task.cancelled() and task.exception() is None:
            endpoint.models = task.result()

    async def _room(self, route: Route, request: ModelRequest, card: ModelCard, prompt_tokens: int | None) -> int:
        """`max_tokens` as the window allows. Raises `AttemptError` (ContextOverflow)."""
        endpoint, target = route.endpoint, route.target
        limit = target.window or endpoint.window(card, target.base)
        if limit is None:
            return request.max_tokens
        setting = (
            f"raise context_window in [roles.{request.role}] or [models.…]"
            if target.window
            else f"raise vLLM's --max-model-len (or set context_window in [roles.{request.role}])"
        )
        if prompt_tokens is not None:
            return window.answer_tokens(prompt_tokens, request.max_tokens, limit, setting=setting)
        tokens = window.estimate_tokens(request.messages)
        if window.surely_fits(tokens, request.max_tokens, limit):
            return request.max_tokens
        if endpoint.counts_tokens:
            try:
                counted = await self._http.count_tokens(endpoint, card.id, request.messages)
                return window.answer_tokens(counted, request.max_tokens, limit, setting=setting)
            except AttemptError as error:
                if error.error_type == "ContextOverflow":
                    raise
                # Without /tokenize (or vLLM's form of it) the estimate is all there is.
                endpoint.counts_tokens = error.fault == "server" and error.error_type != "MalformedResponse"
        if window.surely_overflows(tokens, limit):
            return window.answer_tokens(tokens, request.max_tokens, limit, setting=setting, about="about ")
        return window.room_by_estimate(tokens, request.max_tokens, limit)


def _wrote(sink: TextSink, streamed: StreamedAnswer, max_tokens: int, text: str) -> None:
    sink.wrote(text, streamed.pieces, max_tokens)
