"""Each model server is asked once, and what it says is told in words."""

import pytest
from aiohttp import web

from fleet.config import RoleProfile, Settings
from fleet.local.ports import free_port
from fleet.model_servers import EndpointConfig
from tests.support.workers.calls import said, server, stream
from workers.llm.servers import probe
from workers.simulator.server import Simulator, SimulatorConfig

WITHIN_S = 10.0


async def asked(settings: Settings) -> probe.ProbeResult:
    (answered,) = await probe.ask_all(settings, WITHIN_S)
    return answered


async def test_a_server_that_is_well_answers() -> None:
    """With its model and window."""
    async with Simulator(SimulatorConfig()) as simulator:
        answered = await asked(Settings(vllm_urls=(simulator.url,)))
    assert (answered.error, bool(answered.model), answered.misses) == (None, True, ())
    assert answered.window


@pytest.mark.parametrize(("status", "error_type"), [(401, "Unauthorized"), (404, "NotFound"), (500, "ServerError")])
async def test_a_server_that_refuses_says_why(status: int, error_type: str) -> None:
    """Though it has a list of its models."""

    async def chat(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "told to fail"}}, status=status)

    async with server(chat) as url:
        answered = await asked(Settings(vllm_urls=(url,)))
    assert answered.error_type == error_type
    assert "told to fail" in (answered.error or "")


async def test_a_server_that_is_away_is_told_from_one_that_lacks_a_model() -> None:
    """A model that it does not list is named; a server without a key, too."""
    away = f"http://127.0.0.1:{free_port()}"
    answered = await asked(Settings(vllm_urls=(away,)))
    assert answered.error_type == "ConnectionRefused"

    async def chat(request: web.Request) -> web.StreamResponse:
        return await stream(request, said("yes"))

    async with server(chat) as url:
        roles = {"DEV": RoleProfile(persona="x", model="big", shadow=("candidate",))}
        answered = await asked(Settings(vllm_urls=(url,), roles=roles))
        assert answered.misses == ("big", "candidate")
        keyed = {"gpu": EndpointConfig(url=url, api_key_env="NO_SUCH_KEY")}
        answered = await asked(Settings(endpoints=keyed))
    assert (answered.name, answered.error_type) == ("gpu", "Config")
    assert "NO_SUCH_KEY" in (answered.error or "")
