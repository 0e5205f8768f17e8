"""Makes model clients for tests: without waits, watched, on servers that answer as told."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from aiohttp import web

from fleet.config import Settings, Workers
from fleet.errors import AgentCallError
from fleet.messages import ChatMessage
from fleet.model_servers import EndpointConfig
from workers.calls.reading.structured import parse
from workers.llm.attempt import Check
from workers.llm.client import Answer, ModelClient
from workers.llm.requests import ModelRequest, ModelTarget

END = 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


class Instant(Random):
    """Draws no waits."""

    def uniform(self, a: float, b: float) -> float:
        return a


class RecordingWatcher:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.errors: list[str] = []
        self._attempt = 0
        self.started = asyncio.Event()

    def began(self, attempt: int, after: AgentCallError | None) -> None:
        self._attempt = attempt
        self.texts[attempt] = ""

    def wrote(self, text: str, tokens: int, max_tokens: int) -> None:
        self.texts[self._attempt] += text
        self.started.set()

    def ended(self, tokens: int, error: AgentCallError | None) -> None:
        if error:
            self.errors.append(error.error_type)


def ask(**more: Any) -> ModelRequest:
    """`model` and `context_window` are those of its one target."""
    target = ModelTarget(name=more.pop("model", None), window=more.pop("context_window", None))
    fields: dict[str, Any] = {
        "role": "DEV",
        "messages": (ChatMessage(role="user", content="Design a rate limiter"),),
        "targets": (target,),
        "temperature": 0.7,
        "max_tokens": 500,
        "seed": 7,
        "deadline_ms": round(time.time() * 1000) + 60_000,
    }
    return ModelRequest(**{**fields, **more})


async def text_only(_: str) -> None:
    return None


@asynccontextmanager
async def client(
    *urls: str, key: str | None = None, servers: dict[str, EndpointConfig] | None = None, **limits: Any
) -> AsyncIterator[ModelClient]:
    settings = Settings(vllm_urls=urls, vllm_api_key=key, endpoints=servers or {}, workers=Workers(**limits))
    made = ModelClient(settings, rng=Instant())
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def complete(
    made: ModelClient,
    request: ModelRequest,
    heard: RecordingWatcher | None = None,
    first_attempt: int = 1,
    check: Check | None = None,
) -> Answer:
    async def structured(content: str) -> Any:
        return parse(content, request.answer_schema or {})

    return await made.complete(
        request,
        request_id="t.0.propose.a",
        check=check or (text_only if request.answer_schema is None else structured),
        watcher=heard or RecordingWatcher(),
        first_attempt=first_attempt,
    )


@asynccontextmanager
async def served(app: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Its URL, on a free port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def server(
    chat: Callable[[web.Request], Awaitable[web.StreamResponse]],
    window: int = 32_000,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A model server that answers as told."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "tiny", "meta": {"n_ctx": window}}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    async with served(app, tls) as url:
        yield url


async def stream(request: web.Request, *parts: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for part in parts:
        await response.write(part.encode())
    return response


def said(text: str) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n"
