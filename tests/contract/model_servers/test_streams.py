"""What servers in the field send, byte for byte, and what comes of it: `streams.json` beside this file says both."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fleet.config import RoleProfile, Settings, Workers
from fleet.messages import AgentCompleted, AgentFailed, AgentProgress, AgentRequested, AgentResponse, ChatMessage
from fleet.messages.trace_ids import TraceContext
from fleet.model_servers import EndpointConfig, Kind
from fleet.times import rfc3339
from tests.support.workers.raw_server import RawServer, raw_server
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


async def call(
    server: RawServer, deadline_s: float = 30.0, kind: Kind = "vllm", key_file: Path | None = None, **more: Any
) -> AgentResponse:
    """One agent's proposal, asked of `server` as a worker asks it."""
    settings = Settings(
        endpoints={"one": EndpointConfig(url=server.url, kind=kind, api_key_file=key_file and str(key_file))},
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
        return await Caller(settings, client, unwatched).call(request, 1, TraceContext("1" * 32, "2" * 16))
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


async def test_heartbeats_after_the_end_hold_no_answer_up() -> None:
    """However long they go on: else it would come only when the server has been silent for too long."""
    async with raw_server(CASES["hold_open"]["bytes"].encode("latin-1"), "heartbeats") as server:
        answer = await call(server, deadline_s=10.0)
    assert isinstance(answer, AgentCompleted), answer
    assert server.requests == 1


@pytest.mark.parametrize("name", FAILS)
async def test_what_is_no_answer_is_named_for_what_it_is(name: str) -> None:
    """And is not asked again where it would end the same."""
    error_type, says, made = FAILS[name]
    response, requests = await play(name, deadline_s=2.0 if not made else 30.0)
    assert isinstance(response, AgentFailed), response
    assert says in response.error
    if made:
        assert (response.error_type, requests) == (error_type, made)
    else:  # asked again until the deadline, which may come during a pause: then the cause stands in the text
        assert response.error_type == error_type or error_type in response.error
        assert requests > 1


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


def chunk(delta: Any, reason: str | None = None, **more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})


def response(body: str, content_type: str | None = "text/event-stream", status: str = "200 OK") -> bytes:
    data = body.encode("utf-8", "surrogatepass")
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status}\r\n{kind}Content-Length: {len(data)}\r\n\r\n".encode() + data


def events(*data: str, end: str = "\n\n") -> str:
    return "".join(f"data: {each}{end}" for each in data)


ONE, TWO, STOP, DONE = chunk({"content": "First "}), chunk({"content": "second."}), chunk({}, "stop"), "[DONE]"
MESSAGE = {"choices": [{"message": {"content": "First second."}, "finish_reason": "stop"}], "model": "m"}
ANTHROPIC = {"type": "message", "content": [{"type": "text", "text": "First second."}], "stop_reason": "end_turn"}

WHOLE_TOO = {
    "a completion as an event": response(events(json.dumps(MESSAGE), DONE)),
    "a completion with line breaks": response(json.dumps(MESSAGE, indent=2), "application/json"),
    "a completion with blank lines": response(json.dumps(MESSAGE, indent=2).replace(",\n", ",\n\n"), "text/plain"),
    "a message of the messages API": response(json.dumps(ANTHROPIC), "application/json"),
    "events without any type": response(events(ONE, TWO, STOP, DONE), None),
    "lines of JSON": response("\n".join((ONE, TWO, STOP)) + "\n", "application/x-ndjson"),
    "carriage returns": response(events(ONE, TWO, STOP, DONE, end="\r\r")),
    "no end mark": response(events(ONE, TWO, STOP)),
    "no blank line at the end": response(events(ONE, TWO, STOP) + "data: [DONE]"),
    "the reason with the last piece": response(events(ONE, chunk({"content": "second."}, "stop"), DONE)),
    "an empty reason on each piece": response(events(chunk({"content": "First "}, ""), TWO, STOP, DONE)),
    "another spelling of the reason": response(events(ONE, TWO, chunk({}, "EOS_TOKEN"), DONE)),
    "heartbeats": response(": ping\n\n" + events(ONE, "", "ping", '{"type": "ping"}', TWO, STOP, DONE)),
    "odd statistics": response(
        events(
            ONE, TWO, STOP, json.dumps({"choices": [], "usage": {"prompt_tokens": "12", "prompt_tokens_details": []}})
        )
    ),
    "an index that is null": response(events(ONE, TWO, STOP, DONE).replace('"index": 0', '"index": null')),
    "parts of a text": response(events(chunk({"content": [{"type": "text", "text": "First second."}]}), STOP, DONE)),
    "a list of choices that is none": response(events(ONE, TWO, '{"choices": null}', STOP, DONE)),
    "an error after the end": response(events(ONE, TWO, STOP, '{"error": "cost tracking failed"}')),
}


@pytest.mark.parametrize("name", WHOLE_TOO)
async def test_whatever_the_form_a_whole_answer_is_used(name: str) -> None:
    """At the first attempt."""
    async with raw_server(WHOLE_TOO[name]) as server:
        answer = await call(server)
    assert isinstance(answer, AgentCompleted), answer
    assert answer.proposal is not None
    assert (answer.proposal.content, server.requests) == ("First second.", 1)


FAILS_TOO: dict[str, tuple[bytes, str, str]] = {
    "no reason, no end": (response(events(ONE, TWO)), "Truncated", "no word"),
    "an end mark alone": (response(events(ONE, TWO, DONE)), "Truncated", "no word"),
    "an unknown reason": (response(events(ONE, chunk({}, "stopped_by_moon"), DONE)), "Truncated", "moon"),
    "given up": (response(events(ONE, chunk({}, "error"), DONE)), "Truncated", "finish_reason error"),
    "a tool in place of text": (
        response(events(chunk({"tool_calls": [{"index": 0}]}), chunk({}, "tool_calls"), DONE)),
        "EmptyResponse",
        "tool",
    ),
    "a filter before any text": (response(events(chunk({}, "content_filter"), DONE)), "ContentFiltered", "filter"),
    "a hole": (response(events(ONE, '{"choices": [{"index": 0, "del', STOP, DONE)), "MalformedResponse", "may hold"),
    "an error by name": (response("event: error\ndata: no quota left\n\n"), "ServerError", "no quota left"),
    "an error between events": (
        response(events(ONE) + '{"error": {"message": "CUDA error"}}\n'),
        "ServerError",
        "CUDA error",
    ),
    "an error with 200": (
        response('{"error": {"message": "bad key", "type": "authentication_error"}}', "application/json"),
        "Unauthorized",
        "bad key",
    ),
    "an error in a list": (
        response('[{"error": {"code": 404, "message": "models/x is not found"}}]', "application/json"),
        "NotFound",
        "models/x",
    ),
    "FastAPI's words": (
        response('{"detail": [{"loc": ["body", "n"], "msg": "must be 1"}]}', "application/json", "422 X"),
        "BadRequest",
        "must be 1",
    ),
    "a page without a type": (
        response("<html><head><title>502</title></head></html>", None),
        "MalformedResponse",
        "502",
    ),
    "nothing": (response(""), "EmptyResponse", "without a word"),
    "nothing but an end": (response(events(STOP, DONE)), "EmptyResponse", "no text"),
}


@pytest.mark.parametrize("name", FAILS_TOO)
async def test_whatever_the_form_what_is_no_answer_is_none(name: str) -> None:
    """And the error says what the server said."""
    sent, error_type, says = FAILS_TOO[name]
    async with raw_server(sent) as server:
        answer = await call(server)
    assert isinstance(answer, AgentFailed), answer
    assert (answer.error_type, says in answer.error) == (error_type, True), answer.error
