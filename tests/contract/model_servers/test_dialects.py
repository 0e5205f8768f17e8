"""Servers that refuse, want or tell things in their own, documented words: each is asked until it answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from msgspec import structs

from fleet.messages import ChatMessage
from fleet.messages.trace_ids import TraceContext, context_of
from fleet.model_servers import EndpointConfig, Kind
from tests.support.workers.calls import END, RecordingWatcher, ask, client, complete, said, served, stream
from workers.llm.client import GaveUp

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "maxLength": 9}},
    "required": ["verdict"],
    "additionalProperties": False,
}
MESSAGES = (ChatMessage(role="system", content="Rules."), ChatMessage(role="user", content="Question."))
Refusal = tuple[int, Any] | None


class Server:
    """Records what it is sent; answers with what `judge` says of a body, or with a good text.

    The first `together` requests are answered when all of them have come.
    """

    def __init__(self, judge: Callable[[dict[str, Any]], Refusal], models: Refusal = None) -> None:
        self._judge = judge
        self._models = models
        self.together = 0
        self._all_have_come = asyncio.Event()
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            status, value = self._models or (200, {"data": [{"id": "m"}]})
            if isinstance(value, str):
                return web.Response(status=status, text=value, content_type="text/html")
            return web.json_response(value, status=status)
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.path_qs)
        self.headers.append(dict(request.headers))
        if len(self.bodies) >= self.together:
            self._all_have_come.set()
        await self._all_have_come.wait()
        refusal = self._judge(body)
        if refusal is not None:
            return web.json_response(refusal[1], status=refusal[0])
        return await stream(request, said('{"verdict": "fine"}'), END)


@asynccontextmanager
async def serving(
    judge: Callable[[dict[str, Any]], Refusal], models: Refusal = None
) -> AsyncIterator[tuple[Server, str]]:
    server = Server(judge, models)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with served(app) as url:
        yield server, url


def openai_error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def o_series(body: dict[str, Any]) -> Refusal:
    if "max_tokens" in body:
        text = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
        return 400, openai_error(text, param="max_tokens", code="unsupported_parameter")
    if body.get("temperature", 1) != 1:
        text = "Unsupported value: 'temperature' does not support 0.7. Only the default (1) value is supported."
        return 400, openai_error(text, param="temperature", code="unsupported_value")
    return None


def deepseek(body: dict[str, Any]) -> Refusal:
    if body.get("response_format", {}).get("type") == "json_schema":
        return 400, openai_error("This response_format type is unavailable now")
    if body.get("response_format") and "JSON" not in body["messages"][-1]["content"]:
        return 400, openai_error("Prompt must contain the word 'json' in some form")
    return None


def extra(name: str) -> dict[str, Any]:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]}


def no_format(body: dict[str, Any]) -> Refusal:
    if "response_format" in body:
        return 422, extra("response_format")
    return None


def no_bounds(body: dict[str, Any]) -> Refusal:
    if "maxLength" in json.dumps(body.get("response_format")):
        return 400, openai_error(
            "Invalid schema for response_format: For 'string' type, property 'maxLength' is not supported"
        )
    return None


def mistral(body: dict[str, Any]) -> Refusal:
    for name in ("stream_options", "seed"):
        if name in body:
            return 422, {
                "detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
            }
    return None


def gemma(body: dict[str, Any]) -> Refusal:
    if body["messages"][0]["role"] == "system":
        return 400, {"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400}
    return None


def small_output(body: dict[str, Any]) -> Refusal:
    if body["max_tokens"] > 300:
        return 400, openai_error("max_tokens is too large: 500. This model supports at most 300 completion tokens.")
    return None


def small_window(body: dict[str, Any]) -> Refusal:
    if body["max_tokens"] > 8192 - 7900:
        text = (
            f"This model's maximum context length is 8192 tokens. However, you requested {7900 + body['max_tokens']} "
            f"tokens (7900 in the messages, {body['max_tokens']} in the completion)."
        )
        return 400, openai_error(text, code="context_length_exceeded")
    return None


@pytest.mark.parametrize(
    ("judge", "note", "refusals"),
    [
        (o_series, "temperature was not sent", 2),
        (deepseek, "json_object", 1),
        (no_format, "no response_format", 2),
        (no_bounds, "without bounds", 1),
        (mistral, "seed was not sent", 2),
        (gemma, "system message", 1),
        (small_output, "lowered to 300", 1),
        (small_window, None, 1),
    ],
)
async def test_what_a_server_refuses_is_learned_and_said(
    judge: Callable[[dict[str, Any]], Refusal], note: str | None, refusals: int
) -> None:
    """The first call finds out, the second one knows; no attempt is spent on it."""
    async with serving(judge) as (server, url), client(url, max_attempts=1) as made:
        for calls in (1, 2):
            answer = await complete(made, ask(messages=MESSAGES, answer_schema=SCHEMA))
            assert answer.checked == {"verdict": "fine"}
            assert note is None or any(note in each for each in answer.notes)
            again = calls if note is not None else 2 * calls - 1
            assert len(server.bodies) == refusals + again
    assert "Rules." in json.dumps(server.bodies[-1]["messages"])


@pytest.mark.parametrize("judge", [o_series, deepseek, no_format, no_bounds, mistral, gemma, small_output])
async def test_a_council_whose_calls_are_refused_together_learns_as_one_call_does(
    judge: Callable[[dict[str, Any]], Refusal],
) -> None:
    """No call fails since another one has learned before it, and nothing more is given up than is refused."""
    question = ask(messages=MESSAGES, answer_schema=SCHEMA)
    async with serving(judge) as (_, url), client(url, max_attempts=1) as made:
        alone = await complete(made, question)
    async with serving(judge) as (server, url), client(url, max_attempts=1) as made:
        server.together = 3
        answers = await asyncio.gather(*(complete(made, question) for _ in range(server.together)))
        later = await complete(made, question)
    assert [answer.checked for answer in answers] == [{"verdict": "fine"}] * server.together
    assert later.notes == alone.notes


@pytest.mark.parametrize(
    ("status", "said_no"),
    [
        (400, "You are not allowed to request logprobs from this model"),
        (403, "You are not allowed to request logprobs from this model"),
        (400, "Requested sample logprobs of 11, which is greater than max allowed: 5"),
        (400, "Invalid value for 'top_logprobs': must be less than or equal to 5."),
        (400, "Unrecognized request argument supplied: logprobs"),
        (400, "logprobs are not supported with reasoning models."),
    ],
)
async def test_scores_are_asked_for_without_odds_where_they_are_refused(status: int, said_no: str) -> None:
    """From the second call on nothing is tried; the answer says so."""
    judge = lambda body: (status, openai_error(said_no)) if "top_logprobs" in body else None  # noqa: E731
    async with serving(judge) as (server, url), client(url, max_attempts=1) as made:
        for _ in range(2):
            answer = await complete(made, ask(phase="score", messages=MESSAGES, answer_schema=SCHEMA))
            assert answer.notes == ("logprobs was not sent",)
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]


async def test_odds_are_not_asked_for_where_the_settings_say_so() -> None:
    """Nor of servers whose API has none."""
    async with serving(lambda body: None) as (server, url):
        plain = EndpointConfig(url=url, models=("m",))
        for config in (
            plain,
            structs.replace(plain, request={"logprobs": False}),
            structs.replace(plain, kind="anthropic"),
        ):
            async with client(servers={"one": config}) as made:
                await complete(made, ask(phase="score", messages=MESSAGES, answer_schema=SCHEMA))
    asked = [sorted(body.keys() & {"logprobs", "top_logprobs"}) for body in server.bodies]
    assert asked == [["logprobs", "top_logprobs"], [], []]


async def test_a_refusal_that_no_form_mends_is_told_as_it_is() -> None:
    """Once."""
    async with (
        serving(lambda body: (400, openai_error("temperature out of range"))) as (server, url),
        client(url) as made,
    ):
        with pytest.raises(GaveUp, match="out of range") as raised:
            await complete(made, ask())
    assert (raised.value.error_type, len(server.bodies)) == ("BadRequest", 1)


@pytest.mark.parametrize(
    "models",
    [
        (403, {"error": "no"}),
        (401, {"error": "no"}),
        (404, {"error": "no"}),
        (500, {"error": "No connected db."}),
        (501, {}),
        (200, "<!doctype html><title>UI</title>"),
        (200, {"object": "list", "data": None}),
        (200, [{"id": "other", "context_length": "131072.0"}]),
        (200, [{"no": "id"}, {"id": "n"}]),
    ],
)
async def test_a_list_of_models_is_no_condition_for_one_that_is_named(models: Refusal) -> None:
    """Forbidden, broken, odd or without it: the server has the last word."""
    async with serving(lambda body: None, models) as (server, url), client(url) as made:
        answer = await complete(made, ask(model="n"))
    assert (answer.model, server.bodies[0]["model"], answer.attempt <= 2) == ("n", "n", True)


@pytest.mark.parametrize(
    ("kind", "path", "called", "header"),
    [
        ("openai", "", "/v1/chat/completions", ("Authorization", "Bearer key")),
        (
            "azure",
            "/openai/v1?api-version=2026-01-01",
            "/openai/v1/chat/completions?api-version=2026-01-01",
            ("api-key", "key"),
        ),
        ("anthropic", "/v1/messages", "/v1/messages", ("x-api-key", "key")),
        ("other", "/v1beta/openai/", "/v1beta/openai/chat/completions", ("Authorization", "Bearer key")),
        ("litellm", "/v1/chat/completions", "/v1/chat/completions", ("Authorization", "Bearer key")),
    ],
)
async def test_path_query_and_key_are_as_the_kind_wants_them(
    kind: Any, path: str, called: str, header: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path that is given is kept; the key comes from a variable, stripped."""
    monkeypatch.setenv("GPU_KEY", "key\r\n")
    async with serving(lambda body: None) as (server, url):
        config = EndpointConfig(url=url + path, kind=kind, api_key_env="GPU_KEY", models=("m",))
        async with client(servers={"one": config}) as made:
            answer = await complete(made, ask(messages=MESSAGES))
    assert (server.paths, server.headers[0][header[0]], answer.endpoint) == ([called], header[1], "one")


async def test_the_messages_api_has_its_own_form() -> None:
    """System apart, no seed, no stream options, a temperature that it takes, its version, the schema in the prompt."""
    async with serving(lambda body: None) as (server, url):
        config = EndpointConfig(url=url, kind="anthropic", models=("claude",))
        async with client(servers={"one": config}) as made:
            await complete(made, ask(messages=MESSAGES, answer_schema=SCHEMA, temperature=1.7))
    (body,) = server.bodies
    assert (body["system"], body["temperature"], body["max_tokens"]) == ("Rules.", 1.0, 500)
    assert not body.keys() & {"seed", "stream_options", "response_format"}
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert "JSON Schema" in body["messages"][0]["content"]
    assert server.headers[0]["anthropic-version"] == "2023-06-01"


async def test_what_the_settings_say_goes_into_every_body_and_header() -> None:
    """A value replaces a field, false takes it out; sessions, traces and priorities go along."""
    async with serving(lambda body: None) as (server, url):
        config = EndpointConfig(
            url=url, request={"temperature": False, "top_k": 20}, headers={"X-Team": "a"}, priority=True
        )
        async with client(servers={"one": config}) as made:
            for phase in ("propose", "score"):
                await complete(made, ask(phase=phase, task_id="t-1", trace=TraceContext("1" * 32, "2" * 16)))
    first, second = server.bodies
    assert "temperature" not in first
    assert (first["top_k"], first["priority"] > second["priority"]) == (20, True)
    sent = server.headers[0]
    assert (sent["X-Session-ID"], sent["X-Team"]) == ("t-1", "a")
    traces = [context_of(headers["traceparent"]) for headers in server.headers]
    assert [trace.trace_id for trace in traces if trace] == ["1" * 32] * 2


async def test_every_attempt_says_whose_it_is() -> None:
    """The session and the trace stay; each attempt has an id of its own."""
    answers = iter([(500, {"error": "no"}), (503, {"error": "The server is overloaded."}), None])
    async with serving(lambda body: next(answers)) as (server, url), client(url) as made:
        await complete(made, ask(task_id="t-1", trace=TraceContext("1" * 32, "2" * 16)))
    sent = [{name.lower(): value for name, value in head.items()} for head in server.headers]
    assert len(sent) == 3
    spans = [context_of(head["traceparent"]) for head in sent]
    assert {(head["x-session-id"], span.trace_id) for head, span in zip(sent, spans, strict=True) if span} == {
        ("t-1", "1" * 32)
    }
    assert len({span.span_id for span in spans if span}) == 3
    ids = [head["x-request-id"].rpartition(".") for head in sent]
    assert [number for _, _, number in ids] == ["1", "2", "3"]
    assert len({call for call, _, _ in ids}) == 1


@pytest.mark.parametrize(("kind", "first"), [("vllm", min), ("sglang", max)])
async def test_later_phases_go_first_where_the_server_takes_priorities(kind: Kind, first: Callable[..., int]) -> None:
    """vLLM takes the lowest first, SGLang the highest; other servers, and these by default, are sent none."""
    phases = ("propose", "critique", "revise", "score")
    async with serving(lambda body: None) as (server, url):
        config = EndpointConfig(url=url, kind=kind, models=("m",), priority=True)
        async with client(servers={"one": config}) as made:
            for phase in phases:
                await complete(made, ask(phase=phase))
        for other in (structs.replace(config, priority=False), structs.replace(config, kind="openai")):
            async with client(servers={"one": other}) as made:
                await complete(made, ask(phase="score"))
    sent = [body.get("priority") for body in server.bodies]
    assert sent[4:] == [None, None]
    for earlier, later in pairwise(sent[:4]):
        assert first(earlier, later) == later
        assert earlier != later


async def test_a_server_that_cuts_prompts_is_found_out() -> None:
    """By what it counted."""
    long = (ChatMessage(role="user", content="a prompt of many words " * 2000),)
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 4095, "completion_tokens": 2}}\n\n'

    async def cut(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "m"}]})
        return await stream(request, said("fine"), usage, END)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cut)
    async with served(app) as url, client(url) as made:
        with pytest.raises(GaveUp, match="num_ctx") as raised:
            await complete(made, ask(messages=long))
    assert raised.value.error_type == "PromptTruncated"


async def test_an_endpoint_that_refuses_costs_no_call() -> None:
    """All are answered by the other one; it is not asked for every call again."""
    refuse = lambda body: (401, {"error": "Unauthorized"})  # noqa: E731
    async with (
        serving(refuse) as (bad, bad_url),
        serving(lambda body: None) as (good, good_url),
        client(bad_url, good_url) as made,
    ):
        for number in range(30):
            await complete(made, ask(model="m", task_id=str(number)))
    assert (len(good.bodies), len(bad.bodies)) == (30, 1)


async def test_an_endpoint_that_refuses_what_others_accept_is_passed_over() -> None:
    """A 400 alone may be the request's fault: it is the endpoint's once another one takes the same."""
    refuse = lambda body: (400, openai_error("I do not like it"))  # noqa: E731
    async with (
        serving(refuse) as (bad, bad_url),
        serving(lambda body: None) as (good, good_url),
        client(bad_url, good_url) as made,
    ):
        for number in range(20):
            await complete(made, ask(model="m", task_id=str(number)))
    assert (len(good.bodies), len(bad.bodies)) == (20, 1)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
        (503, {"error": "The server is overloaded: too many requests are queued."}),
        (429, {"error": {"message": "slow down", "code": "429"}}),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        (502, {"error": "bad gateway"}),
    ],
)
async def test_a_server_without_room_is_waited_for(status: int, body: Any) -> None:
    """However often it says so: what has not begun costs no attempt."""
    left = 12

    def busy(_: dict[str, Any]) -> Refusal:
        nonlocal left
        left -= 1
        return (status, body) if left > 0 else None

    async with serving(busy) as (_, url), client(url, max_attempts=2, breaker_cool_down_s=0.01) as made:
        heard = RecordingWatcher()
        answer = await complete(made, ask(model="m"), heard)
    assert (answer.content != "", len(heard.errors)) == (True, 11)


@pytest.mark.parametrize("unread", ["m, n", {"what": 1}, [7, None], None])
async def test_a_list_that_cannot_be_read_is_not_an_empty_one(unread: Any) -> None:
    """A server that is well has its part of the calls, though another one lists the model."""
    async with (
        serving(lambda body: None, (200, unread)) as (odd, odd_url),
        serving(lambda body: None, (200, {"data": [{"id": "m"}]})) as (plain, plain_url),
        client(odd_url, plain_url) as made,
    ):
        for _ in range(8):
            await complete(made, ask(model="m"))
    assert odd.bodies
    assert plain.bodies


async def test_a_model_that_only_one_server_has_is_asked_there() -> None:
    """The other is learned before it is chosen."""
    async with (
        serving(lambda body: None, (200, {"data": [{"id": "small"}]})) as (small, small_url),
        serving(lambda body: None, (200, {"data": [{"id": "large"}]})) as (large, large_url),
        client(small_url, large_url) as made,
    ):
        for number in range(10):
            answer = await complete(made, ask(model="large", task_id=str(number)))
            assert answer.model == "large"
    assert (len(small.bodies), len(large.bodies)) == (0, 10)
