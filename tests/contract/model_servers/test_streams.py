"""What servers in the field send, byte for byte, and what comes of it: `streams.json` beside this file says both."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fleet.config import RoleProfile, Settings, Workers
from fleet.messages import AgentCompleted, AgentFailed, AgentProgress, AgentRequested, AgentResponse, ChatMessage
from fleet.times import rfc3339
from tests.support.raw_server import RawServer, raw_server
from workers.calls.caller import Caller
from workers.llm.client import ModelClient

CASES = {case["name"]: case for case in json.loads((Path(__file__).parent / "streams.json").read_text())["cases"]}
TEXT = "First sentence is here. Second sentence closes the answer."

_SAY_THE_TEXT = """hold_open php_empty usage_float json_reply html_type error_after_finish message_last
cut_after_finish http10 other_model"""
WHOLE = {
    **dict.fromkeys(_SAY_THE_TEXT.split(), TEXT),
    "empty_data": "First second.",
    "single_newline": "First second.",
    "empty_data_retry": "First second.",
    "gzip_stream": "First second.",
    "surrogate": "Ship it 🚀 now.",
}
FAILS: dict[str, tuple[str, str, int]] = {
    # name -> error type, what the text says, requests that were made
    "abort": ("Truncated", "finish_reason abort", 2),
    "length": ("Truncated", "max_tokens 2000", 2),
    "content_filter": ("ContentFiltered", "content_filter", 1),
    "error_unframed": ("ContextOverflow", "exceeds the available context size", 1),
    "error_detail": ("ServerError", "CUDA out of memory", 2),
    "code_400_text": ("BadRequest", "temperature out of range", 1),
    "refusal": ("Refused", "I cannot assist", 1),
    "think_all": ("Truncated", "max_tokens 2000", 2),
    "redirect": ("UnexpectedStatus", "https://elsewhere.example", 1),
    "login_page": ("MalformedResponse", "Sign in", 1),
    "tgi_422": ("ContextOverflow", "max_new_tokens", 2),
    "vllm_longer": ("ContextOverflow", "maximum model length", 1),
    "zero_width": ("EmptyResponse", "no text", 2),
    "status_424": ("ServerError", "424", 2),
    "status_529": ("ServerError", "overloaded", 0),
}


async def unwatched(event: AgentProgress, number: int, traceparent: str) -> None: ...


async def call(server: RawServer, deadline_s: float = 30.0, **more: Any) -> AgentResponse:
    """One agent's proposal, asked of `server` as a worker asks it."""
    settings = Settings(
        vllm_urls=(server.url,),
        roles={"DEV": RoleProfile(persona="You are a developer.", max_tokens=1000)},
        workers=Workers(max_attempts=2),
    )
    client = ModelClient(settings)
    client.start()
    request = AgentRequested(
        task_id="t",
        agent_id="agent-dev-001",
        role="DEV",
        phase="propose",
        round=0,
        messages=(ChatMessage(role="user", content="Design a rate limiter."),),
        num_agents=1,
        deadline_at=rfc3339(round((time.time() + deadline_s) * 1000)),
        **more,
    )
    try:
        return await Caller(settings, client, unwatched).call(request, 1, "")
    finally:
        await client.close()


async def play(name: str, **more: Any) -> tuple[AgentResponse, int]:
    case = CASES[name]
    async with raw_server(case["bytes"].encode("latin-1"), case["then"]) as server:
        return await call(server, **more), server.requests


def test_every_case_is_tried() -> None:
    """A new one is not forgotten."""
    assert WHOLE.keys() | FAILS.keys() == CASES.keys()


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer_is_used_at_once(name: str) -> None:
    """However it is sent, and whatever else comes with it."""
    response, requests = await play(name)
    assert isinstance(response, AgentCompleted), response
    assert response.proposal is not None
    assert response.proposal.content.rstrip() == WHOLE[name]
    assert (response.proposal.finish_reason, response.proposal.truncated, requests) == ("stop", False, 1)


@pytest.mark.parametrize("name", FAILS)
async def test_what_is_no_answer_is_named_for_what_it_is(name: str) -> None:
    """And is not asked again where it would end the same."""
    error_type, says, made = FAILS[name]
    response, requests = await play(name, deadline_s=2.0 if not made else 30.0)
    assert isinstance(response, AgentFailed), response
    assert (response.error_type, says in response.error) == (error_type, True), response.error
    assert requests == made or (not made and requests > 1)


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("usage_float", (12, 9, 0)),
        ("json_reply", (10, 9, 0)),
        ("php_empty", (None, None, 1)),
    ],
)
async def test_tokens_are_what_was_told(name: str, usage: tuple[int | None, int | None, int]) -> None:
    """And null where nothing was; then they are estimated, apart."""
    response, _ = await play(name)
    prompt, completion, estimated = usage
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (prompt, completion)
    assert response.usage.cached_tokens is None
    assert bool(response.usage.estimated_tokens) == bool(estimated)


async def test_the_model_that_answered_is_named() -> None:
    """Not the one that was asked for."""
    response, _ = await play("other_model")
    assert isinstance(response, AgentCompleted)
    assert response.proposal is not None
    assert response.model == response.proposal.model == "fallback/small-model"


@pytest.mark.parametrize("name", ["length", "content_filter", "abort"])
async def test_a_cut_text_counts_where_the_request_says_so(name: str) -> None:
    """And is marked."""
    response, requests = await play(name, accept_truncated=True)
    assert isinstance(response, AgentCompleted)
    assert response.proposal is not None
    assert (response.proposal.truncated, response.degraded, requests) == (True, True, 1)
    assert response.proposal.finish_reason == name


async def test_an_error_after_the_end_is_in_the_log() -> None:
    """Nowhere else."""
    with capture_logs() as logs:
        await play("error_after_finish")
    assert "spend log" in next(entry["error"] for entry in logs if entry["event"] == "model.error_after_end")
