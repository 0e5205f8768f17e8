"""A foreign model server: OpenAI's chat completions as a stranger would write them. Shares no code with the fleet."""

import asyncio
import json
from typing import Any, Self

from aiohttp import web

from tests.support.waiting import WITHIN_S


class StubModel:
    """Records every request; answers with a text of its own, or an instance of the asked schema."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self.words: str | None = None
        """What it says instead of a text of its own, where no schema is asked for."""
        self.keys: set[str | None] = set()
        self.open = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.statuses: list[int] = []
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        app.add_routes([web.get("/v1/models", self._models), web.post("/v1/chat/completions", self._chat)])
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def until_open(self, count: int) -> None:
        """Waits until so many calls are open."""
        async with asyncio.timeout(WITHIN_S), self._changed:
            await self._changed.wait_for(lambda: self.open == count)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "stub-model", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.keys.add(request.headers.get("Authorization"))
        if self.statuses:
            return web.json_response({"error": {"message": "told to fail"}}, status=self.statuses.pop(0))
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        own = f"The answer number {len(self.requests)}." if self.words is None else self.words
        text = json.dumps(instance(schema, len(self.requests))) if schema else own
        self.answers.append(text)
        await self._count(+1)
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await self._send(response, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text[:4]}}]})
            await self.gate.wait()
            await self._send(response, {"choices": [{"index": 0, "delta": {"content": text[4:]}}]})
            await self._send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            await self._send(response, {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            await self._count(-1)

    async def _send(self, response: web.StreamResponse, chunk: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps({"object": "chat.completion.chunk", **chunk}).encode() + b"\n\n")

    async def _count(self, change: int) -> None:
        self.open += change
        async with self._changed:
            self._changed.notify_all()


def instance(schema: dict[str, Any], number: int) -> Any:
    """The plainest value that satisfies `schema`; a `numbered` text has the number of the request."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "boolean":
            return True
        case "object":
            return {name: instance(inner, number) for name, inner in schema["properties"].items()}
        case "array":
            return [instance(schema["items"], number)]
        case "string":
            return f"point {number}" if schema.get("description") == "numbered" else "a point"
        case "integer" | "number":
            return schema.get("maximum", 1)
        case other:
            raise ValueError(other)
