"""Councils on a real llama.cpp, alone and behind a real LiteLLM proxy. The model is real, and very small."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Up, start, stop
from tests.servers.conftest import MODEL, PROXY_KEY, Proxy

ENDED_WITHIN_S = 280
pytestmark = pytest.mark.timeout(600)

ROLE = """
[roles.DEV]
model = "{model}"
persona = "You write code."
max_tokens = 120
"""
DIRECT = """
[endpoints.local]
url = "{url}"
kind = "llamacpp"
"""
PROXIED = """
[endpoints.proxy]
url = "{url}"
kind = "litellm"
models = ["small", "narrow", "gone"]
api_key_env = "PROXY_KEY"

[models.gone]
fallbacks = ["small"]

[roles.QA]
model = "gone"
persona = "You test."
max_tokens = 100

[roles.OPS]
model = "narrow"
persona = "You operate."
max_tokens = 100
"""
OPTIONS = {"accept_truncated": True}
"""A model of this size comes to no end by itself."""


@asynccontextmanager
async def fleet(folder: Path, config: str, **environ: str) -> AsyncIterator[Up]:
    file = folder / "fleet.toml"
    file.write_text(config)
    up = await start(folder / "data", FLEET_CONFIG=str(file), **environ)
    try:
        yield up
    finally:
        assert await stop(up) == 0


def proxied(folder: Path, proxy: Proxy, key: str = PROXY_KEY) -> AbstractAsyncContextManager[Up]:
    return fleet(folder, PROXIED.format(url=proxy.url) + ROLE.format(model="small"), PROXY_KEY=key)


async def council(up: Up, **body: Any) -> dict[str, Any]:
    constraints = {"rubric": {"correctness": 1}, "timeout_seconds": ENDED_WITHIN_S - 20}
    return await up.result(await up.request(constraints=constraints, options=OPTIONS, **body), ENDED_WITHIN_S)


async def test_a_council_of_llamacpp_scores_itself(llamacpp: str, tmp_path: Path) -> None:
    """Each proposal has the scores of the others, out of what the model wrote; tokens are as it told them."""
    async with fleet(tmp_path, DIRECT.format(url=llamacpp) + ROLE.format(model=MODEL)) as up:
        done = await council(up, num_agents=3, rounds=0)
    assert done["status"] == "COMPLETED"
    assert done["failed_agents"] == []
    assert len(done["results"]) == 3
    for result in done["results"]:
        assert result["proposal"]["content"].strip()
        assert 0 <= result["score"] <= 10
    usage = done["usage"]
    assert (usage["calls"], usage["estimated_tokens"]) == (6, 0)
    assert usage["prompt_tokens"] > usage["completion_tokens"] > 0
    assert list(done["usage_by_model"]) == [MODEL]


async def test_a_council_behind_litellm_scores_itself(litellm: Proxy, tmp_path: Path) -> None:
    """The model that answered is named, and the proxy's key is nowhere in what is told."""
    async with proxied(tmp_path, litellm) as up:
        before = litellm.written()
        done = await council(up, num_agents=2, rounds=0)
    assert litellm.written() > before
    assert (done["status"], done["failed_agents"]) == ("COMPLETED", [])
    assert all(0 <= result["score"] <= 10 for result in done["results"])
    assert PROXY_KEY not in json.dumps(done)
    assert PROXY_KEY not in up.log.read_text()


async def test_a_model_without_a_server_behind_litellm_holds_up_no_other(litellm: Proxy, tmp_path: Path) -> None:
    """Its own calls go to the fallback, and say so; those of the sound model, asked meanwhile, are answered."""
    async with proxied(tmp_path, litellm) as up:
        fallen, sound = await asyncio.gather(
            council(up, num_agents=2, rounds=0, role="QA"), council(up, num_agents=2, rounds=0)
        )
    assert (sound["status"], sound["failed_agents"]) == ("COMPLETED", [])
    assert "gone" not in " ".join(sound["notes"])
    assert (fallen["status"], fallen["degraded"]) == ("COMPLETED", True)
    assert "gone" in " ".join(fallen["notes"])


async def test_what_litellm_refuses_for_now_waits(litellm: Proxy, tmp_path: Path) -> None:
    """Two requests a minute, and four calls: 429 costs no call, it waits for the next minute."""
    async with proxied(tmp_path, litellm) as up:
        done = await council(up, num_agents=2, rounds=0, role="OPS")
    assert (done["status"], done["failed_agents"]) == ("COMPLETED", [])


async def test_a_wrong_key_for_litellm_is_named(litellm: Proxy, tmp_path: Path) -> None:
    """As what it is, and without the key."""
    async with proxied(tmp_path, litellm, key="sk-wrong") as up:
        done = await up.result(await up.request(num_agents=1, rounds=0, constraints={"timeout_seconds": 40}), 60)
    assert done["status"] != "COMPLETED"
    (failed,) = done["failed_agents"]
    assert failed["error_type"] == "Unauthorized"
    assert "sk-wrong" not in json.dumps(done)
