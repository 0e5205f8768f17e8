"""What a worker makes of a judge's model server: of vLLM's bytes, of others, and of none."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import log
from typing import Any

import pytest
from aiohttp import web

from fleet.cli.doctor.models import model_servers
from fleet.clock import now_ms
from fleet.config import RoleProfile, Settings, Workers
from fleet.messages import AgentCompleted, AgentFailed, AgentProgress, AgentRequested, AgentResponse, ChatMessage, Judge
from fleet.messages.trace_ids import TraceContext
from fleet.model_servers import EndpointConfig, JudgeConfig, Price
from fleet.times import rfc3339
from tests.support.workers.calls import Instant, served
from workers.calls.caller import Caller
from workers.llm.call_history import CallHistory
from workers.llm.client import ModelClient
from workers.llm.http import MAX_BODY_BYTES
from workers.llm.requests import resolve
from workers.llm.servers.endpoints import Endpoints
from workers.llm.servers.probe import ask_all

TRACE = TraceContext("1" * 32, "2" * 16)
JUDGE = Judge(name="reward", kind="classify", model="rm", endpoint="rm-1")
ASKED = JUDGE.change(kind="generative_scoring")
USAGE = {"prompt_tokens": 21, "total_tokens": 21, "completion_tokens": 0}
SAID = (ChatMessage(role="user", content="Design it"), ChatMessage(role="assistant", content="Use <|im_end|> a bucket"))


class Server:
    """Answers as told, by path; keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[Any] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "rm", "max_model_len": 100}]})
        body = await request.json()
        self.asked.append((request.path, body))
        self.headers.append(request.headers)
        told = self._answers[request.path.strip("/")]
        told = told(body) if callable(told) else told
        status, told = told if isinstance(told, tuple) else (200, told)
        return web.Response(status=status, text=told if isinstance(told, str) else json.dumps(told))


@asynccontextmanager
async def serving(**answers: Any) -> AsyncIterator[tuple[Server, str]]:
    server, app = Server(**answers), web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    async with served(app) as url:
        yield server, url


async def unwatched(event: AgentProgress, number: int, traceparent: str) -> None: ...


def settings_for(url: str, **endpoint: Any) -> Settings:
    return Settings(
        endpoints={"rm-1": EndpointConfig(url=url, **endpoint), "gpu-1": EndpointConfig(url="http://127.0.0.1:9")},
        judges={"reward": JudgeConfig(kind="classify", endpoint="rm-1", model="rm")},
        roles={"DEV": RoleProfile(persona="p")},
        workers=Workers(max_attempts=2),
    )


def request(**more: Any) -> AgentRequested:
    fields = {"task_id": "t", "agent_id": "a", "role": "DEV", "phase": "score", "round": 0, "num_agents": 3}
    late = rfc3339(now_ms() + 20_000)
    return AgentRequested(**{**fields, "messages": SAID, "deadline_at": late, "labels": {"A": "b"}, **more})


async def call(url: str, judge: Judge = JUDGE, *, within_ms: int = 20_000, **endpoint: Any) -> AgentResponse:
    settings = settings_for(url, **endpoint)
    client = ModelClient(settings, rng=Instant())
    client.start()
    caller = Caller(settings, client, unwatched)
    try:
        return await caller.call(request(judge=judge, deadline_at=rfc3339(now_ms() + within_ms)), 1, TRACE)
    finally:
        await caller.close()
        await client.close()


def completed(response: AgentResponse) -> AgentCompleted:
    assert isinstance(response, AgentCompleted), response
    return response


def failed(response: AgentResponse) -> AgentFailed:
    assert isinstance(response, AgentFailed), response
    return response


def classified(*numbers: Any) -> dict[str, Any]:
    """As vLLM 0.32.0 answers."""
    data = [{"index": 0, "label": "LABEL_0", "probs": list(numbers), "num_classes": len(numbers)}]
    return {"id": "c", "object": "list", "created": 1, "model": "org/rm", "data": data, "usage": USAGE}


async def test_a_reward_model_is_asked_for_its_raw_number() -> None:
    """One request, a conversation without control tokens, no sigmoid; tokens and cost are what the server told."""
    async with serving(classify=classified(-3.25)) as (server, url):
        price = Price(input=1.0, output=2.0)
        response = completed(await call(f"{url}/v1", price=price, request={"user": "fleet"}))
    assert response.reward is not None
    assert (response.reward.value, response.reward.kind, response.reward.model) == (-3.25, "classify", "org/rm")
    assert response.scores is None
    ((path, body),) = server.asked
    assert path == "/classify"
    assert (body["model"], body["use_activation"], body["user"]) == ("rm", False, "fleet")
    assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
    assert "<|im_end|>" not in body["messages"][1]["content"]
    assert "stream" not in body
    used = response.usage_by_model["org/rm"]
    assert (used.prompt_tokens, used.completion_tokens, used.estimated_tokens, used.calls) == (21, 0, 0, 1)
    assert used.cost == 0.000021
    assert server.headers[0]["X-Session-ID"] == "t"


def tokenized(body: dict[str, Any]) -> dict[str, Any]:
    tokens = {"Yes": [7, 8], "No": [9]}.get(body.get("prompt", ""), [1, 2, 3])
    return {"count": len(tokens), "max_model_len": 100, "tokens": tokens}


async def test_a_model_is_asked_for_the_odds_of_its_next_token() -> None:
    """Through its chat template, as tokens; the first token of each word is its label."""
    data = [{"index": 0, "object": "score", "score": 0.8}]
    told = {"model": "m", "data": data, "usage": {**USAGE, "completion_tokens": 1}}
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    async with serving(tokenize=tokenized, generative_scoring=told) as (server, url):
        response = completed(await call(url, ASKED, request=extra))
    assert response.reward is not None
    assert response.reward.value == pytest.approx(log(0.8 / 0.2), abs=1e-6)
    assert response.usage.completion_tokens == 1
    (_, prompt), (path, body) = server.asked[2:]
    assert prompt["add_generation_prompt"] is True
    assert prompt["chat_template_kwargs"] == {"enable_thinking": False}
    assert path == "/generative_scoring"
    assert (body["query"], body["items"], body["label_token_ids"]) == ([], [[1, 2, 3]], [7, 9])


async def test_a_prompt_that_the_server_would_cut_is_not_sent() -> None:
    """It cuts the question, and says nothing of it."""

    def long(body: dict[str, Any]) -> dict[str, Any]:
        return tokenized(body) if "prompt" in body else {"max_model_len": 100, "tokens": [1] * 100}

    async with serving(tokenize=long) as (server, url):
        response = failed(await call(url, ASKED))
    assert response.error_type == "ContextOverflow"
    assert "100 tokens" in response.error
    assert {path for path, _ in server.asked} == {"/tokenize"}


TOO_LONG = {"error": {"message": "This model's maximum context length is 100 tokens. You requested 120", "code": 400}}


@pytest.mark.parametrize(
    ("answer", "error_type"),
    [
        (classified(0.1, 0.9), "InvalidAnswer"),
        ({"data": []}, "MalformedResponse"),
        (classified("3"), "MalformedResponse"),
        (classified(None), "MalformedResponse"),
        ('{"data": [{"probs": [NaN]}]}', "MalformedResponse"),
        ("<html>login</html>", "MalformedResponse"),
        (f'{{"data": [{{"probs": [1{"0" * 400}]}}]}}', "MalformedResponse"),
        ("[" * 100_000, "MalformedResponse"),
        (json.dumps(classified(1.0)) + " " * MAX_BODY_BYTES, "MalformedResponse"),
        ((404, {"detail": "Not Found"}), "NotFound"),
        ((400, TOO_LONG), "ContextOverflow"),
        ((500, "broken"), "ServerError"),
    ],
)
async def test_what_is_no_reward_fails_the_call(answer: Any, error_type: str) -> None:
    """With the reason; nothing is made up."""
    async with serving(classify=answer) as (_, url):
        assert failed(await call(url)).error_type == error_type


async def test_a_judge_that_is_away_fails_when_its_time_is_over() -> None:
    """And says why it had no answer."""
    response = failed(await call("http://127.0.0.1:9", within_ms=700))
    assert response.error_type == "DeadlineExceeded"
    assert "ConnectionRefused" in response.error
    assert "timeout_s" in response.error


def test_no_other_call_goes_to_a_reward_model() -> None:
    """It writes nothing."""
    settings = settings_for("http://rm:8000")
    assert [each.endpoints for each in resolve(settings, request(phase="propose")).targets] == [frozenset({"gpu-1"})]
    (target,) = resolve(settings, request(judge=JUDGE)).targets
    assert (target.name, target.endpoints) == ("rm", frozenset({"rm-1"}))


def test_where_a_judge_is_asked_decides_nothing_for_its_task() -> None:
    """The calls of those who write keep their endpoint, whose cache has their prompts."""
    settings = settings_for("http://rm:8000")
    history = CallHistory(Endpoints(settings.model_servers))
    writing, judging = (history.search(resolve(settings, request(judge=judge))) for judge in (None, JUDGE))
    assert writing.task_id == "t"
    assert judging.task_id not in ("", "t")


async def test_a_small_window_is_enough_for_a_reward_model() -> None:
    """It sees each proposal alone; only those who write are warned of."""
    async with serving(classify=classified(1.5)) as (_, url):
        found = {each.what: each.verdict for each in await model_servers(settings_for(url), {})}
    assert found["vllm rm-1"] == "ok"


async def test_a_probe_asks_a_reward_model_for_a_reward() -> None:
    """`fleet doctor` would else say that it has no chat."""
    async with serving(classify=classified(1.5)) as (server, url):
        results = await ask_all(settings_for(url), 2.0)
    (told,) = (each for each in results if each.name == "rm-1")
    assert told.error is None
    assert [path for path, _ in server.asked] == ["/classify"]
