"""Serves the simulated vLLM's HTTP routes, and takes each chat request through queue, faults and answer."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import web
from msgspec import UNSET, Raw, structs

from workers.simulator import wire
from workers.simulator.chat import (
    Call,
    Job,
    completion,
    content,
    decide_answers,
    digest_of,
    ending,
    opening,
    spoil,
)
from workers.simulator.config import ConfigChange, SimulatorConfig
from workers.simulator.engine import ModelCounters, PrefixCache, Seats, metrics_text, paced, seated
from workers.simulator.judging import routes
from workers.simulator.replies import hang_up, json_reply, refusal, silence
from workers.simulator.text import prompt_ids, token_ids

_LARGEST_BODY_BYTES = 64 * 2**20
_UNWATCHED_TICK_S = 0.05  # an answer that is not streamed need not wake the loop for every token
_LARGEST_CHUNK_TOKENS = 32
_VERSION = "0.32.0+simulated"
_OWN_PATHS = "/simulator/"


class SimulatedApi:
    """The application and all its state; `Simulator` gives it a port."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.requests = 0
        self.aborted = 0
        self.calls: deque[Call] = deque(maxlen=config.recorded_calls)
        self.seats = Seats(config.max_num_seqs)
        self._models = {name: ModelCounters() for name in config.served_models}
        self._cache = PrefixCache(config.prefix_cache_blocks)
        self._draws = 0
        self._born = time.monotonic()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY_BYTES, middlewares=[self._guard])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/classify", self._classify)
        app.router.add_post("/generative_scoring", self._score)
        app.router.add_put("/simulator/config", self._change)
        app.router.add_get("/simulator/calls", self._list_calls)
        return app

    def change(self, change: ConfigChange) -> None:
        self.config = change.apply(self.config)
        self.seats.resize(self.config.max_num_seqs)
        if change.faults is not UNSET:
            self._draws = 0
            self._born = time.monotonic()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        own = request.path.startswith(_OWN_PATHS)
        if not own and self.config.faults.is_down(time.monotonic() - self._born):
            return hang_up(request)
        key = self.config.api_key
        # vLLM's key guards /v1 alone.
        if key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
            return json_reply({"error": "Unauthorized"}, status=401)
        try:
            return await handler(request)
        except wire.ApiError as error:
            return refusal(error)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return json_reply({"version": _VERSION})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=metrics_text(self._models), content_type="text/plain", charset="utf-8")

    async def _list_models(self, _: web.Request) -> web.Response:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": name,
                "parent": None,
                "max_model_len": self.config.max_model_len,
            }
            for name in self._models
        ]
        return json_reply({"object": "list", "data": cards})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = wire.decode(wire.TokenizeRequest, await request.read())
        self._model_named(body.model)
        if body.messages is not None:
            ids = prompt_ids(message.pair() for message in body.messages)
        elif body.prompt is not None:
            ids = token_ids(body.prompt)
        else:
            raise wire.bad_request("Either `messages` or `prompt` is required", "prompt")
        longest = self.config.max_model_len
        return json_reply({"count": len(ids), "max_model_len": longest, "tokens": ids.tolist()})

    async def _classify(self, request: web.Request) -> web.Response:
        asked = wire.decode(routes.ClassifyRequest, await request.read())
        model = self._model_named(asked.model)
        return json_reply(routes.classify(asked, model, self.config.seed, self.config.max_model_len))

    async def _score(self, request: web.Request) -> web.Response:
        asked = wire.decode(routes.ScoringRequest, await request.read())
        model = self._model_named(asked.model)
        return json_reply(routes.score(asked, model, self.config.seed, self.config.max_model_len))

    async def _change(self, request: web.Request) -> web.Response:
        self.change(wire.decode(ConfigChange, await request.read()))
        shown = structs.replace(self.config, api_key=None)
        return json_reply(shown)

    async def _list_calls(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", "100")
        if not limit.isdecimal():
            raise wire.bad_request("limit is a number, 0 or more", "limit")
        latest = list(self.calls)
        latest = latest[max(0, len(latest) - int(limit)) :]
        if request.query.get("bodies") == "no":
            latest = [structs.replace(call, body="") for call in latest]
        return json_reply({"calls": latest})

    # One chat request.

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        request_id = request.headers.get("X-Request-Id") or f"simulated-{self.requests}"
        call = Call(request_id=request_id, body="", started=time.time())
        self.calls.append(call)
        try:
            response = await self._run(request, self._accept(call, await request.read()))
        except wire.ApiError as error:
            call.end("rejected")
            response = refusal(error)
            response.headers["X-Request-Id"] = request_id
        except asyncio.CancelledError:  # how the runner tells that the client has left
            self.aborted += 1
            call.end("aborted")
            raise
        except ConnectionError:  # the same, noticed first by a write
            self.aborted += 1
            call.end("aborted")
            response = web.Response()
        else:
            call.end("completed")
        return response

    def _accept(self, call: Call, body: bytes) -> Job:
        """Decode, check, and decide the whole answer and its fault. Raises ApiError."""
        try:
            chat = wire.decode(wire.ChatRequest, body)
        except wire.ApiError:
            call.body = body.decode("utf-8", "replace")
            raise
        call.body = Raw(body)
        model = self._model_named(chat.model)
        if chat.is_greedy and chat.choices > 1:
            raise wire.bad_request(f"n must be 1 when using greedy sampling, got {chat.choices}.", "n")
        messages = [message.pair() for message in chat.messages]
        ids = prompt_ids(messages)
        call.prompt_tokens = len(ids)
        room = self.config.max_model_len - len(ids)
        if (chat.limit_tokens or 1) > room:
            raise wire.too_long(self.config.max_model_len, len(ids), chat.limit_tokens or 0)
        answers = decide_answers(chat, model, messages, chat.limit_tokens or room, self.config, call.request_id)
        call.digest = digest_of(answers[0].text(0, len(answers[0].tokens)))
        fault = self.config.faults.draw(self.config.seed, self._draws)
        self._draws += 1
        return Job(
            call=call,
            chat=chat,
            model=model,
            counters=self._models[model],
            ids=ids,
            answers=spoil(answers, fault),
            fault=fault,
            created=int(time.time()),
        )

    def _model_named(self, name: str | None) -> str:
        if name is None:
            return self.config.served_models[0]
        if name not in self._models:
            raise wire.unknown_model(name)
        return name

    async def _run(self, request: web.Request, job: Job) -> web.StreamResponse:
        match job.fault:
            case "refuse":
                job.strike()
                return hang_up(request)
            case "http_429" | "http_500" | "http_503":
                job.strike()
                raise wire.fault_error(job.fault, self.config.faults.retry_after_s)
        queue_limit = self.config.max_num_queued
        if queue_limit is not None and not self.seats.is_free and self.seats.waiting >= queue_limit:
            raise wire.overloaded()
        async with seated(self.seats, job.counters):
            self._prefill(job)
            if job.fault == "hang":
                job.strike()
                await silence()
            return await (self._stream(request, job) if job.chat.stream else self._whole(request, job))

    def _prefill(self, job: Job) -> None:
        job.call.cached_tokens = self._cache.admit(job.model, job.ids)
        job.counters.prompt_tokens += len(job.ids)
        job.counters.cache_queries += len(job.ids)
        job.counters.cache_hits += job.call.cached_tokens

    def _finish(self, job: Job) -> None:
        """What was generated can be found by a later prompt that begins with it."""
        job.finish()
        for answer in job.answers:
            if not answer.thoughts:
                self._cache.admit(job.model, job.ids + token_ids(answer.text(0, len(answer.tokens))))

    async def _stream(self, request: web.Request, job: Job) -> web.StreamResponse:
        response = web.StreamResponse(headers=job.headers)
        response.content_type, response.charset = "text/event-stream", "utf-8"
        await response.prepare(request)
        rate, latency_s = self.config.tokens_per_second, self.config.latency_ms / 1_000
        step = 1 if rate else min(_LARGEST_CHUNK_TOKENS, 1 + job.length // 8)
        pending = opening(job)
        async for low, high in paced(job.length, rate, latency_s):
            job.count(low, high)
            pending += content(job, low, high, step)
            if high < job.length:  # the last tokens go out together with the ending
                await response.write(pending)
                pending = b""
        match job.fault:
            case "stall":
                job.strike()
                await response.write(pending)
                await silence()
            case "truncate":
                job.strike()
                await response.write(pending)
                hang_up(request)
                return response
            case "malformed":
                pending += b'data: {"id":"chatcmpl-\n\n'
        self._finish(job)
        await response.write_eof(pending + ending(job))
        return response

    async def _whole(self, request: web.Request, job: Job) -> web.StreamResponse:
        rate, latency_s = self.config.tokens_per_second, self.config.latency_ms / 1_000
        async for low, high in paced(job.length, rate, latency_s, tick_s=_UNWATCHED_TICK_S):
            job.count(low, high)
        body = completion(job)
        if job.fault in ("stall", "truncate"):
            job.strike()
            response = web.StreamResponse(headers=job.headers)
            response.content_type, response.content_length = "application/json", len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            if job.fault == "stall":
                await silence()
            hang_up(request)
            return response
        self._finish(job)
        if job.fault == "malformed":
            body = body[: len(body) // 2]
        return web.Response(body=body, content_type="application/json", headers=job.headers)
