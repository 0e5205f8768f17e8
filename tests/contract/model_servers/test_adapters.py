"""LoRA adapters as models: asked where they are, loaded where a server allows it, else their base stands in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from fleet.config import RoleProfile, Settings, Workers
from fleet.messages import AgentRequested, ChatMessage
from fleet.model_servers import EndpointConfig, ModelConfig
from fleet.times import rfc3339
from tests.support.workers.calls import END, RecordingWatcher, said, stream, text_only
from workers.llm.client import Answer, ModelClient
from workers.llm.requests import resolve

FAR_MS = 4_000_000_000_000


class Vllm:
    """As far as adapters go. `allows`: an operator has switched loading on."""

    def __init__(self, *adapters: str, allows: bool = False) -> None:
        self.adapters = list(adapters)
        self.allows = allows
        self.loads: list[dict[str, Any]] = []
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/models":
            cards = [{"id": "base", "max_model_len": 4096}, *({"id": each, "parent": "base"} for each in self.adapters)]
            return web.json_response({"data": cards})
        body = await request.json()
        if request.path == "/v1/load_lora_adapter":
            self.loads.append(body)
            if not self.allows:
                return web.json_response({"detail": "Not Found"}, status=404)
            self.adapters.append(body["lora_name"])
            return web.Response(text="Success: LoRA adapter added.")
        self.asked.append(body["model"])
        if body["model"] not in ("base", *self.adapters):
            return web.json_response({"error": {"message": "The model does not exist.", "code": 404}}, status=404)
        return await stream(request, said("Yes."), END)


@asynccontextmanager
async def serving(*servers: Vllm) -> AsyncIterator[dict[str, EndpointConfig]]:
    runners, endpoints = [], {}
    for number, server in enumerate(servers):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        endpoints[f"gpu-{number}"] = EndpointConfig(url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield endpoints
    finally:
        for runner in runners:
            await runner.cleanup()


async def asked(endpoints: dict[str, EndpointConfig], times: int = 1, **adapter: Any) -> list[Answer]:
    """A role whose model is an adapter."""
    settings = Settings(
        endpoints=endpoints,
        models={"tuned": ModelConfig(name="dev", base="base", **adapter)},
        roles={"DEV": RoleProfile(persona="You write code.", model="tuned", max_tokens=100)},
        workers=Workers(),
    )
    call = AgentRequested(
        task_id="t",
        agent_id="a",
        role="DEV",
        phase="propose",
        round=0,
        num_agents=1,
        messages=(ChatMessage(role="user", content="?"),),
        deadline_at=rfc3339(FAR_MS),
    )
    client = ModelClient(settings)
    client.start()
    try:
        request = resolve(settings, call)
        return [
            await client.complete(request, request_id="r", check=text_only, watcher=RecordingWatcher())
            for _ in range(times)
        ]
    finally:
        await client.close()


async def test_a_call_goes_to_where_its_adapter_is() -> None:
    """Others have the base only, and are not asked to load it."""
    without, having = Vllm(allows=True), Vllm("dev")
    async with serving(without, having) as endpoints:
        answers = await asked(endpoints, times=6, adapter="/adapters/dev")
    assert {answer.endpoint for answer in answers[2:]} == {"gpu-1"}
    assert set(having.asked) == {"dev"}
    assert not any(answer.stands_in for answer in answers)


async def test_an_adapter_is_loaded_once_where_that_is_allowed() -> None:
    """By the name that calls ask for, from where the settings say."""
    server = Vllm(allows=True)
    async with serving(server) as endpoints:
        answers = await asked(endpoints, times=3, adapter="/adapters/dev")
    assert server.loads == [{"lora_name": "dev", "lora_path": "/adapters/dev"}]
    assert server.asked == ["dev"] * 3
    assert not any(answer.stands_in for answer in answers)


async def test_the_base_stands_in_where_an_adapter_cannot_be_had() -> None:
    """It is asked for once; the result says who answered, and is degraded."""
    server = Vllm()
    async with serving(server) as endpoints:
        answers = await asked(endpoints, times=3, adapter="/adapters/dev")
    assert len(server.loads) == 1
    assert server.asked == ["base"] * 3
    assert all(answer.stands_in for answer in answers)
    assert answers[0].notes == ("base answered in place of its adapter dev",)


async def test_without_a_place_nothing_is_loaded() -> None:
    """The settings name the base, and no adapter to load."""
    server = Vllm(allows=True)
    async with serving(server) as endpoints:
        (answer,) = await asked(endpoints)
    assert (server.loads, answer.stands_in) == ([], True)
