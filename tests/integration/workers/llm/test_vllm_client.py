import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from msgspec import structs

from fleet.errors import AgentCallError
from fleet.messages import ChatMessage
from fleet.model_servers import EndpointConfig, Price
from tests.support.waiting import WITHIN_S, until
from tests.support.workers.calls import END, RecordingWatcher, ask, client, complete, said, server, stream
from workers.llm.client import GaveUp
from workers.llm.requests import ModelTarget
from workers.simulator.server import Faults, Simulator, SimulatorConfig

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string"}},
    "required": ["verdict"],
    "additionalProperties": False,
}


async def test_an_answer_has_text_model_tokens_and_usage() -> None:
    """The first listed model is used when none is named; all deltas together are the text."""
    async with Simulator(SimulatorConfig(model="first")) as simulator, client(simulator.url) as made:
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard)
        (call,) = simulator.calls()
    assert answer.content == heard.texts[1] != ""
    assert (answer.model, answer.attempt, answer.reasoning) == ("first", 1, None)
    assert answer.tokens == answer.spent.usage.completion_tokens == call.completion_tokens
    assert answer.spent.usage.prompt_tokens == call.prompt_tokens
    assert call.request_id == "t.0.propose.a.1"


async def test_an_answer_has_the_cost_of_its_tokens() -> None:
    """By the price of the endpoint that was asked."""
    price = Price(input=2.0, output=3.0)
    async with Simulator(SimulatorConfig(model="first")) as simulator:
        servers = {"gpu-1": EndpointConfig(url=simulator.url, price=price)}
        async with client(servers=servers) as made:
            answer = await complete(made, ask())
    used = answer.spent.by_model["first"]
    expected = (2 * (used.prompt_tokens or 0) + 3 * (used.completion_tokens or 0)) / 1e6
    assert used.cost == pytest.approx(expected)
    assert expected > 0


async def test_a_schema_is_sent_and_its_answer_checked() -> None:
    """Structured output."""
    async with Simulator() as simulator, client(simulator.url) as made:
        answer = await complete(made, ask(answer_schema=SCHEMA))
    assert isinstance(answer.checked["verdict"], str)


async def test_the_key_is_sent_and_never_shown() -> None:
    """A server that repeats the key in its error does not get it into ours."""

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": request.headers["Authorization"]}}, status=401)

    async with server(refuse) as url, client(url, key="secret-key") as made:
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask())
    assert (raised.value.error_type, raised.value.retryable) == ("Unauthorized", False)
    assert "Bearer ***" in raised.value.error
    assert url in raised.value.error


async def test_secrets_are_hidden_wherever_a_server_repeats_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a stream, in a header of its answer, decoded or as they were sent."""
    monkeypatch.setenv("A_COOKIE", "s3cr3t-of-a-cookie")
    headers = {"X-Cookie": "A_COOKIE"}

    async def in_a_stream(request: web.Request) -> web.StreamResponse:
        said = json.dumps({"error": {"message": " ".join(request.headers.values()), "code": 400}})
        return web.Response(text=f"data: {said}\n\n", content_type="text/event-stream")

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"http://elsewhere/?k={request.headers['X-Cookie']}"})

    for handler in (in_a_stream, elsewhere):
        async with server(handler) as url:
            config = EndpointConfig(url=url, models=("m",), headers_env=headers, api_key="s3cr3t-key")
            async with client(servers={"a": config}, max_attempts=1) as made:
                with pytest.raises(GaveUp) as raised:
                    await complete(made, ask())
        assert "***" in raised.value.error
        assert "s3cr3t" not in repr(raised.value) + str(raised.value) + raised.value.error


async def test_no_key_travels_on_a_redirect() -> None:
    """Nor does anything else: to another server or to the same one."""
    asked: list[str] = []

    async def heard(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    async with server(heard) as other:

        async def redirect(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{other}/stolen"})

        async with server(redirect) as url, client(url, key="secret-key", max_attempts=2) as made:
            with pytest.raises(GaveUp):
                await complete(made, ask())
    assert asked == []


async def test_a_key_that_was_rotated_in_its_file_is_read_again(tmp_path: Path) -> None:
    """When a server refuses the old one, without a failed attempt."""
    (tmp_path / "key").write_text("old")

    async def guard(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != "Bearer new":
            return web.json_response({"error": {"message": "no"}}, status=401)
        return await stream(request, said("fine"), END)

    async with server(guard) as url:
        config = EndpointConfig(url=url, models=("m",), api_key_file=str(tmp_path / "key"))
        async with client(servers={"a": config}, max_attempts=1) as made:
            (tmp_path / "key").write_text("new\n")
            heard = RecordingWatcher()
            assert (await complete(made, ask(), heard)).content == "fine"
            assert heard.errors == []


async def test_each_server_has_its_own_certificate_authority(tmp_path: Path) -> None:
    """One that the others' authority has not signed is not talked to."""
    authorities = {name: trustme.CA() for name in ("a", "b")}

    async def fine(request: web.Request) -> web.StreamResponse:
        return await stream(request, said("fine"), END)

    for name, ca in authorities.items():
        ca.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authorities["a"].issue_cert("127.0.0.1").configure_cert(tls)
    async with server(fine, tls=tls) as url:
        for name, trusted in (("a", True), ("b", False)):
            config = EndpointConfig(url=url, models=("m",), ca=str(tmp_path / f"{name}.pem"), api_key="k")
            async with client(servers={"a": config}, max_attempts=1) as made:
                if trusted:
                    assert (await complete(made, ask())).content == "fine"
                else:
                    with pytest.raises(GaveUp) as raised:
                        await complete(made, ask())
                    assert raised.value.error_type == "TlsFailed"


async def test_an_authority_that_is_rotated_in_place_counts_for_the_next_connection(tmp_path: Path) -> None:
    """And the old one does no longer."""

    async def fine(request: web.Request) -> web.StreamResponse:
        return await stream(request, said("fine"), END)

    old, new = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    old.cert_pem.write_to_path(file)
    tls = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in (old, new)]
    for context, authority in zip(tls, (old, new), strict=True):
        authority.issue_cert("127.0.0.1").configure_cert(context)
    async with server(fine, tls=tls[0]) as first, server(fine, tls=tls[1]) as second:
        servers = {
            name: EndpointConfig(url=url, models=(name,), ca=str(file))
            for name, url in (("first", first), ("second", second))
        }
        async with client(servers=servers, max_attempts=1) as made:
            for authority, trusted, other in ((old, "first", "second"), (new, "second", "first")):
                authority.cert_pem.write_to_path(file)
                assert (await complete(made, ask(model=trusted))).content == "fine"
                with pytest.raises(GaveUp) as raised:
                    await complete(made, ask(model=other))
                assert raised.value.error_type == "TlsFailed"


@pytest.mark.parametrize(
    ("fault", "error_type"),
    [
        ("refuse", "ConnectionLost"),
        ("http_429", "RateLimited"),
        ("http_500", "ServerError"),
        ("http_503", "ServerError"),
        ("hang", "Timeout"),
        ("stall", "StreamStalled"),
        ("truncate", "Truncated"),
        ("malformed", "MalformedResponse"),
        ("empty", "EmptyResponse"),
    ],
)
async def test_each_fault_has_its_name_and_the_next_attempt_succeeds(fault: str, error_type: str) -> None:
    """What is worth another try gets one; texts of two attempts never mix."""
    # A refused request on a kept connection is tried again at once, and is no failure.
    faults = Faults(**{fault: 1.0}, only_first=2 if fault == "refuse" else 1, retry_after_s=0.01)
    async with (
        Simulator(SimulatorConfig(faults=faults)) as simulator,
        client(simulator.url, stall_timeout_s=0.3) as made,
    ):
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard, first_attempt=5)
    assert heard.errors == [error_type]
    assert answer.attempt == 6
    assert answer.content == heard.texts[6]


async def test_a_kept_connection_that_its_server_closed_is_no_failure() -> None:
    """llama.cpp closes them, and says nothing."""
    faults = Faults(refuse=1.0, only_first=1)
    async with Simulator(SimulatorConfig(faults=faults)) as simulator, client(simulator.url) as made:
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard)
    assert (answer.attempt, heard.errors) == (1, [])


async def test_after_the_last_attempt_the_last_error_stands() -> None:
    """With its `retryable`, so that others may know."""
    async with (
        Simulator(SimulatorConfig(faults=Faults(http_500=1.0))) as simulator,
        client(simulator.url, max_attempts=3) as made,
    ):
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask())
        assert simulator.requests == 3
    assert (raised.value.error_type, raised.value.retryable, raised.value.attempt) == ("ServerError", True, 3)


async def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once() -> None:
    """The last error stands, not the deadline's."""
    async with (
        Simulator(SimulatorConfig(faults=Faults(http_429=1.0, retry_after_s=3600))) as simulator,
        client(simulator.url) as made,
    ):
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask())
        assert simulator.requests == 1
    assert (raised.value.error_type, raised.value.retryable) == ("RateLimited", True)


async def test_the_deadline_bounds_a_call_and_stops_the_model() -> None:
    """The HTTP stream is closed."""
    slow = SimulatorConfig(tokens_per_second=20, answer_tokens=10_000)
    async with Simulator(slow) as simulator, client(simulator.url) as made:
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask(deadline_ms=round(time.time() * 1000) + 500))
        await until(lambda: simulator.aborted == 1)
    assert (raised.value.error_type, raised.value.retryable) == ("DeadlineExceeded", False)


async def test_a_cancelled_call_stops_the_model() -> None:
    """The HTTP stream is closed."""
    slow = SimulatorConfig(tokens_per_second=20, answer_tokens=10_000)
    async with Simulator(slow) as simulator, client(simulator.url) as made:
        heard = RecordingWatcher()
        task = asyncio.create_task(complete(made, ask(), heard))
        async with asyncio.timeout(WITHIN_S):
            await heard.started.wait()
            task.cancel()
            await until(lambda: simulator.aborted == 1)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_invalid_answer_is_shown_to_the_model_with_the_complaint() -> None:
    """The second request goes on where the first ended, with another seed; usage is summed."""
    bodies: list[dict[str, Any]] = []
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'

    async def chat(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        text = "no JSON" if len(bodies) == 1 else '{"verdict": "fine"}'
        return await stream(request, said(text), usage, END)

    async with server(chat) as url, client(url) as made:
        answer = await complete(made, ask(answer_schema=SCHEMA))
    first, second = bodies
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "user"]
    assert "not JSON" in second["messages"][2]["content"]
    assert second["seed"] != first["seed"]
    assert (answer.checked, answer.spent.usage.prompt_tokens) == ({"verdict": "fine"}, 10)


async def test_an_invalid_answer_is_mended_once_however_few_attempts_there_are() -> None:
    """`max_attempts` is for other failures; the second invalid answer is the last."""

    async def chat(request: web.Request) -> web.StreamResponse:
        return await stream(request, said("no JSON"), END)

    async with server(chat) as url, client(url, max_attempts=1) as made:
        heard = RecordingWatcher()
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask(answer_schema=SCHEMA), heard)
    assert heard.errors == ["InvalidAnswer", "InvalidAnswer"]
    assert (raised.value.error_type, raised.value.retryable, raised.value.attempt) == ("InvalidAnswer", True, 2)


async def test_thoughts_are_neither_answer_nor_shown_on_repair() -> None:
    """A server without a reasoning parser leaves them in the text."""
    bodies: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        text = "no JSON" if len(bodies) == 1 else '{"verdict": "fine"}'
        return await stream(request, said("<think>let me "), said("see</th"), said(f"ink>\n{text}"), END)

    async with server(chat) as url, client(url) as made:
        heard = RecordingWatcher()
        answer = await complete(made, ask(answer_schema=SCHEMA), heard)
    assert bodies[1]["messages"][1] == {"role": "assistant", "content": "no JSON"}
    assert (answer.reasoning, answer.content, answer.checked) == ("let me see", heard.texts[2], {"verdict": "fine"})


async def test_reasoning_sent_apart_is_kept_apart_and_counted() -> None:
    """vLLM's reasoning parser sends it first; its tokens are completion tokens."""
    async with (
        Simulator(SimulatorConfig(reasoning_tokens=20)) as simulator,
        client(simulator.url) as made,
    ):
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard)
    assert answer.reasoning
    assert answer.content == heard.texts[1] != ""
    assert answer.reasoning not in answer.content
    assert answer.tokens > 20


async def test_a_budget_that_is_thought_away_is_doubled_once() -> None:
    """The same again would end the same; the error says what to raise."""
    async with Simulator(SimulatorConfig(reasoning_tokens=5000)) as simulator, client(simulator.url) as made:
        with pytest.raises(GaveUp, match=r"reasoning.*max_tokens 1000") as raised:
            await complete(made, ask(max_tokens=500))
        assert simulator.requests == 2
    assert (raised.value.error_type, raised.value.spent.usage.completion_tokens) == ("Truncated", 1500)


async def test_a_text_that_is_cut_off_is_asked_for_with_more_room() -> None:
    """And is whole then, with what both attempts used."""
    async with Simulator(SimulatorConfig(answer_tokens=400)) as simulator, client(simulator.url) as made:
        heard = RecordingWatcher()
        answer = await complete(made, ask(max_tokens=300), heard)
    assert (answer.finish_reason, answer.truncated, heard.errors) == ("stop", False, ["Truncated"])
    assert answer.spent.usage.completion_tokens == answer.tokens + 300


async def test_an_error_within_the_stream_is_no_answer() -> None:
    """Although the status was 200 and text had come."""

    async def chat(request: web.Request) -> web.StreamResponse:
        return await stream(request, said("half"), 'data: {"error": {"message": "bad", "code": 400}}\n\n')

    async with server(chat) as url, client(url) as made:
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask())
    assert (raised.value.error_type, raised.value.retryable) == ("BadRequest", False)


async def test_a_refused_connection_moves_the_call_to_another_endpoint() -> None:
    """One dead server among two costs no deliberation."""
    async with Simulator() as gone:
        dead = gone.url
    async with Simulator() as simulator, client(dead, simulator.url) as made:
        found = [await complete(made, ask()) for _ in range(4)]
    assert all(answer.content for answer in found)


async def test_load_is_spread_over_the_endpoints() -> None:
    """Fewest open calls first."""
    async with Simulator() as one, Simulator() as two, client(one.url, two.url) as made:
        await asyncio.gather(*(complete(made, ask()) for _ in range(10)))
        assert (one.requests, two.requests) == (5, 5)


async def test_max_tokens_is_lowered_to_what_the_window_leaves() -> None:
    """The prompt is whole."""
    prompt = "word " * 300
    async with Simulator(SimulatorConfig(max_model_len=1000)) as simulator, client(simulator.url) as made:
        await complete(made, ask(messages=(ChatMessage(role="user", content=prompt),), max_tokens=900))
        (call,) = simulator.calls()
    body = json.loads(bytes(call.body) if not isinstance(call.body, str) else call.body)
    assert body["max_tokens"] == 1000 - call.prompt_tokens
    assert body["messages"][0]["content"] == prompt


async def test_a_prompt_that_fills_the_window_overflows() -> None:
    """Nothing is sent, nothing is cut; the error names what to change."""
    long = ask(messages=(ChatMessage(role="user", content="word " * 3000),))
    async with Simulator(SimulatorConfig(max_model_len=1000)) as simulator, client(simulator.url) as made:
        with pytest.raises(GaveUp, match="--max-model-len") as raised:
            await complete(made, long)
        assert simulator.requests == 0
        with pytest.raises(GaveUp, match=r"context_window in \[roles.DEV\]"):
            await complete(made, structs.replace(long, targets=(ModelTarget(window=100),)))
    assert (raised.value.error_type, raised.value.retryable) == ("ContextOverflow", False)


async def test_without_a_tokenize_endpoint_the_estimate_stands() -> None:
    """llama.cpp says its window in `meta.n_ctx`."""
    bodies: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return await stream(request, said("fine"), END)

    async with server(chat, window=100) as url, client(url) as made:
        await complete(made, ask(messages=(ChatMessage(role="user", content="x" * 200),)))
    assert bodies[0]["max_tokens"] == 100 - (200 // 4 + 8)


SCORES = {
    "type": "object",
    "properties": {"A": {"type": "object", "properties": {"cost": {"type": "integer", "minimum": 3, "maximum": 9}}}},
    "required": ["A"],
}


async def test_a_score_is_the_expected_one() -> None:
    """Of what the simulated model might have written; only scores are asked for with log-probabilities."""
    async with Simulator() as simulator, client(simulator.url) as made:
        found = await complete(made, ask(phase="score", answer_schema=SCORES, seed=3), check=any_json)
        await complete(made, ask(phase="critique", answer_schema=SCORES))
        first, second = (json.loads(bytes(call.body)) for call in simulator.calls())
    criterion = found.checked["A"]["cost"]
    assert criterion["score"] == pytest.approx(criterion["drawn"] - 0.25 + 0.15)
    assert (first["logprobs"], first["top_logprobs"]) == (True, 11)
    assert not second.keys() & {"logprobs", "top_logprobs"}


async def any_json(content: str) -> Any:
    return json.loads(content)


async def test_what_cannot_be_read_with_expected_scores_is_read_without() -> None:
    """Here: by a reader that takes whole scores alone."""

    async def whole(content: str) -> Any:
        value = json.loads(content)
        if not isinstance(value["A"]["cost"], int):
            raise AgentCallError("InvalidAnswer", "no integer", retryable=True)
        return value

    async with Simulator() as simulator, client(simulator.url) as made:
        found = await complete(made, ask(phase="score", answer_schema=SCORES), check=whole)
        assert len(simulator.calls()) == 1
    assert isinstance(found.checked["A"]["cost"], int)
