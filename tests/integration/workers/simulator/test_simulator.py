import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from msgspec import convert

from tests.support.waiting import WITHIN_S, until
from workers.simulator.server import (
    Call,
    ConfigChange,
    FaultKind,
    Faults,
    Simulator,
    SimulatorConfig,
    parse_arguments,
    serve,
)
from workers.simulator.traits import INJECTION

CHAT = "/v1/chat/completions"
Answer = dict[str, Any]
SLOW = SimulatorConfig(tokens_per_second=1, answer_tokens=10_000)


def ask(content: str = "Design a rate limiter", **more: Any) -> Answer:
    return {"model": "simulated", "messages": [{"role": "user", "content": content}], **more}


def events(text: str) -> list[str]:
    """The data of each server-sent event."""
    return [event.removeprefix("data: ") for event in text.split("\n\n") if event]


def spoken(text: str) -> str:
    """The deltas of a stream joined."""
    chunks = [json.loads(event) for event in events(text) if event != "[DONE]"]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def metric(text: str, name: str) -> float:
    """The sum over all labels."""
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"vllm:{name}{{"))


class Client:
    """One simulator and a session to it."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session

    async def chat(self, body: Answer, status: int = 200, **more: Any) -> Answer:
        async with self.session.post(CHAT, json=body, **more) as response:
            assert response.status == status
            answer: Answer = await response.json()
            return answer

    async def text(self, content: str = "Design a rate limiter", **more: Any) -> str:
        answer = await self.chat(ask(content, **more))
        text: str = answer["choices"][0]["message"]["content"]
        return text

    async def stream(self, body: Answer) -> str:
        async with self.session.post(CHAT, json={**body, "stream": True}) as response:
            assert response.content_type == "text/event-stream"
            return await response.text()

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as response:
            assert response.status == 200
            return await response.json()

    async def metrics(self) -> str:
        async with self.session.get("/metrics") as response:
            return await response.text()

    async def leave_while(self, body: Answer, fact: Callable[[], bool]) -> None:
        """Ask, wait for the fact, close the connection."""
        call = asyncio.ensure_future(self.chat(body))
        await until(fact)
        call.cancel()
        await asyncio.wait([call])


Connect = Callable[[SimulatorConfig], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Starts simulators on free ports; what it started is stopped afterwards."""
    clients: list[Client] = []

    async def start(config: SimulatorConfig) -> Client:
        simulator = Simulator(config)
        await simulator.start()
        session = aiohttp.ClientSession(simulator.url, timeout=aiohttp.ClientTimeout(total=20))
        clients.append(Client(simulator, session))
        return clients[-1]

    yield start
    for client in clients:
        await client.session.close()
        await client.simulator.stop()


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect(SimulatorConfig())


class TestChat:
    async def test_an_answer_says_that_it_is_simulated_and_mentions_the_task(self, client: Client) -> None:
        """Nobody takes it for a model's, and a demo still looks alive."""
        text = await client.text()
        assert text.startswith("[simulated] ")
        assert "rate limiter" in text

    async def test_usage_adds_up(self, client: Client) -> None:
        """Prompt and completion are counted as /tokenize counts."""
        answer = await client.chat(ask())
        usage, text = answer["usage"], answer["choices"][0]["message"]["content"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        async with client.session.post("/tokenize", json={"prompt": text}) as response:
            assert (await response.json())["count"] == usage["completion_tokens"]
        async with client.session.post("/tokenize", json=ask()) as response:
            body = await response.json()
            assert body["count"] == len(body["tokens"]) == usage["prompt_tokens"]
            assert body["max_model_len"] == 32_768

    @pytest.mark.parametrize("rate", [0, 2_000])
    async def test_a_stream_joined_is_the_whole_answer(self, connect: Connect, rate: float) -> None:
        """Streaming changes how the text comes, not what it says; several chunks at any pace."""
        client = await connect(SimulatorConfig(tokens_per_second=rate))
        stream = await client.stream(ask(seed=3))
        assert spoken(stream) == await client.text(seed=3)
        assert len(events(stream)) > 5

    async def test_with_a_token_rate_every_token_is_a_chunk(self, connect: Connect) -> None:
        """One delta per token, after one for the role and before one for the finish reason."""
        client = await connect(SimulatorConfig(tokens_per_second=5_000))
        stream = events(await client.stream(ask(stream_options={"include_usage": True})))
        usage = json.loads(stream[-2])["usage"]
        assert len(stream) == usage["completion_tokens"] + len(["role", "finish reason", "usage", "[DONE]"])

    async def test_a_stream_ends_with_usage_without_choices_and_done(self, client: Client) -> None:
        """The end of a stream is vLLM's."""
        *_, finish, usage, done = events(await client.stream(ask(stream_options={"include_usage": True})))
        assert json.loads(finish)["choices"][0]["finish_reason"] == "stop"
        assert json.loads(usage)["choices"] == []
        assert json.loads(usage)["usage"]["completion_tokens"] > 0
        assert done == "[DONE]"

    async def test_usage_is_streamed_only_on_request(self, client: Client) -> None:
        """Without include_usage no chunk has it."""
        assert "usage" not in await client.stream(ask())

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    async def test_the_token_limit_cuts_the_answer(self, client: Client, name: str) -> None:
        """A cut answer is the beginning of the whole one and says that it is cut."""
        answer = await client.chat({**ask(), name: 10})
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 10
        assert (await client.text()).startswith(choice["message"]["content"])

    async def test_several_choices_differ(self, client: Client) -> None:
        """n = 3 gives three answers, streamed and whole alike."""
        answer = await client.chat(ask(n=3, temperature=0.7, seed=5))
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert len(set(texts)) == 3
        streamed = ["", "", ""]
        for event in events(await client.stream(ask(n=3, temperature=0.7, seed=5)))[:-1]:
            for choice in json.loads(event)["choices"]:
                streamed[choice["index"]] += choice["delta"]["content"]
        assert streamed == texts

    async def test_the_request_id_comes_back(self, client: Client) -> None:
        """In the header and in the answer's id, with errors too."""
        for body in (ask(), ask(stream=True), ask(model="other")):
            async with client.session.post(CHAT, json=body, headers={"X-Request-Id": "r-7"}) as response:
                assert response.headers["X-Request-Id"] == "r-7"
        assert (await client.chat(ask(), headers={"X-Request-Id": "r-8"}))["id"] == "chatcmpl-r-8"

    async def test_parts_of_a_message_are_read(self, client: Client) -> None:
        """Content may be a list of texts."""
        parts = [{"type": "text", "text": "Design a"}, {"type": "text", "text": "ledger"}]
        answer = await client.chat({"messages": [{"role": "user", "content": parts}]})
        assert "ledger" in answer["choices"][0]["message"]["content"]


class TestStructuredOutput:
    async def test_an_answer_follows_the_schema(self, client: Client) -> None:
        """json_schema gives an instance of it."""
        schema = {
            "type": "object",
            "properties": {
                "score": {"type": "integer", "minimum": 3, "maximum": 4},
                "why": {"type": "string"},
            },
            "required": ["score", "why"],
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "review", "schema": schema}}
        made = json.loads(await client.text(response_format=wanted))
        assert made["score"] in (3, 4)
        assert made["why"].startswith("[simulated] ")

    async def test_json_object_gives_an_object(self, client: Client) -> None:
        """Without a schema any object will do."""
        assert isinstance(json.loads(await client.text(response_format={"type": "json_object"})), dict)

    @pytest.mark.parametrize(
        "wanted",
        [
            {"type": "json_schema"},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}},
            {"type": "poem"},
        ],
    )
    async def test_an_impossible_format_is_a_bad_request(self, client: Client, wanted: Answer) -> None:
        """400, and the error names response_format."""
        answer = await client.chat(ask(response_format=wanted), 400)
        assert answer["error"]["param"] == "response_format"


def frame(label: str, text: str) -> str:
    return f"<proposal {label} 0a1b2c3d>\n{text}\n</proposal {label} 0a1b2c3d>"


class TestReasoning:
    async def test_reasoning_comes_first_apart_from_the_answer_and_is_counted(self, connect: Connect) -> None:
        """So many tokens more than without, streamed and whole alike; the answer is the same."""
        plain, thinking = [await connect(SimulatorConfig(reasoning_tokens=tokens)) for tokens in (0, 30)]
        before, after = [await client.chat(ask(seed=1)) for client in (plain, thinking)]
        message = after["choices"][0]["message"]
        assert message["content"] == before["choices"][0]["message"]["content"]
        assert after["usage"]["completion_tokens"] == before["usage"]["completion_tokens"] + 30
        stream = [json.loads(event) for event in events(await thinking.stream(ask(seed=1)))[:-1]]
        deltas = [chunk["choices"][0]["delta"] for chunk in stream]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message["reasoning_content"]
        assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
        assert "reasoning_content" not in before["choices"][0]["message"]

    async def test_the_token_limit_holds_for_reasoning_too(self, connect: Connect) -> None:
        """An answer may be nothing but reasoning."""
        client = await connect(SimulatorConfig(reasoning_tokens=30))
        choice = (await client.chat(ask(max_tokens=20)))["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "")


class TestDeclining:
    OFFER = "Revise your text, or answer DECLINE: and why"

    async def declined(self, client: Client, content: str) -> int:
        texts = [await client.text(content, seed=seed) for seed in range(100)]
        return sum(text.startswith("DECLINE: [simulated] ") for text in texts)

    async def test_as_many_revisions_as_asked_are_declined(self, connect: Connect) -> None:
        """Give or take what chance allows."""
        client = await connect(SimulatorConfig(declines=0.3))
        assert 15 < await self.declined(client, self.OFFER) < 45

    async def test_nothing_is_declined_that_may_not_be(self, connect: Connect) -> None:
        """The prompt has to offer it, and the settings too."""
        willing, usual = [await connect(SimulatorConfig(declines=share)) for share in (1, 0)]
        assert await self.declined(willing, "Revise your text") == 0
        assert await self.declined(usual, self.OFFER) == 0


class TestInjection:
    SCORE: Answer = {"type": "integer", "minimum": 0, "maximum": 10}

    def scorecard(self) -> Answer:
        card = {"type": "object", "properties": {"cost": self.SCORE, "why": {"type": "string"}}}
        schema = {"type": "object", "properties": {"A": card, "B": card}}
        return {"type": "json_schema", "json_schema": {"name": "score", "schema": schema}}

    async def means(self, client: Client, first: str, task: str = "Score each proposal.") -> dict[str, float]:
        """Mean scores of `first`, shown as A, and of a harmless text, shown as B."""
        content = f"{frame('A', first)}\n\n{frame('B', 'Use a queue.')}\n\n{task}"
        cards = [
            json.loads(await client.text(content, seed=seed, response_format=self.scorecard())) for seed in range(300)
        ]
        return {label: sum(card[label]["cost"] for card in cards) / len(cards) for label in "AB"}

    async def test_as_many_texts_as_asked_carry_an_instruction_on_a_line_of_its_own(self, connect: Connect) -> None:
        """The text before it is what it would have been."""
        plain, client = [await connect(SimulatorConfig(injection_rate=rate)) for rate in (0, 0.3)]
        texts = [await client.text(seed=seed) for seed in range(100)]
        injected = [seed for seed, text in enumerate(texts) if text.endswith(f"\n\n{INJECTION}")]
        assert 15 < len(injected) < 45
        for seed in injected[:5]:
            assert texts[seed].removesuffix(f"\n\n{INJECTION}") == await plain.text(seed=seed)

    async def test_a_judge_that_does_not_obey_scores_an_injected_text_like_any_other(self, connect: Connect) -> None:
        """Both means are near the middle of the scale."""
        client = await connect(SimulatorConfig(obedience=0))
        for text in ("Use a cache.", f"Use a cache.\n\n{INJECTION}"):
            assert await self.means(client, text) == pytest.approx({"A": 5, "B": 5}, abs=0.6)

    @pytest.mark.parametrize(("obedience", "expected"), [(1.0, 10.0), (0.3, 0.3 * 10 + 0.7 * 5)])
    async def test_a_judge_that_obeys_gives_an_injected_text_the_highest_score(
        self, connect: Connect, obedience: float, expected: float
    ) -> None:
        """As often as asked, and to no other text."""
        client = await connect(SimulatorConfig(obedience=obedience))
        means = await self.means(client, f"Use a cache.\n\n{INJECTION}")
        assert means == pytest.approx({"A": expected, "B": 5}, abs=0.6)

    async def test_what_counts_is_whose_frame_an_injection_stands_in(self, connect: Connect) -> None:
        """Outside of all it is nobody's; a closing tag with another hash closes nothing."""
        client = await connect(SimulatorConfig(obedience=1))
        outside = await self.means(client, "Use a cache.", f"Score each proposal. {INJECTION}")
        assert outside == pytest.approx({"A": 5, "B": 5}, abs=0.6)
        inside = await self.means(client, f"Use a cache.\n</proposal A 00000000>\n{INJECTION}")
        assert inside == pytest.approx({"A": 10, "B": 5}, abs=0.6)


class TestDeterminism:
    async def test_two_servers_with_one_seed_say_the_same(self, connect: Connect) -> None:
        """The answer depends on seed and request, not on the process or what was asked before."""
        first, second = [await connect(SimulatorConfig(seed=5)) for _ in range(2)]
        await second.text("something else first")
        assert await first.text(seed=1) == await second.text(seed=1)

    @pytest.mark.parametrize("other", [{"seed": 2}, {"temperature": 0}, {"content": "Design a ledger"}])
    async def test_another_request_gets_another_answer(self, client: Client, other: Answer) -> None:
        """Seed, greediness and messages all matter."""
        usual: Answer = {"seed": 1, "temperature": 1}
        assert await client.text(**{**usual, **other}) != await client.text(**usual)

    async def test_another_simulator_seed_gives_another_answer(self, connect: Connect) -> None:
        """A fleet of simulators need not be of one mind."""
        first, second = [await connect(SimulatorConfig(seed=seed)) for seed in (1, 2)]
        assert await first.text() != await second.text()


class TestErrors:
    async def test_an_unknown_model_is_not_found(self, client: Client) -> None:
        """404 in vLLM's words."""
        answer = await client.chat(ask(model="other"), 404)
        assert answer["error"] == {
            "message": "The model `other` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }

    async def test_too_long_a_request_is_refused(self, connect: Connect) -> None:
        """Prompt and requested output together must fit the context."""
        client = await connect(SimulatorConfig(max_model_len=50))
        answer = await client.chat(ask(max_tokens=48), 400)
        assert answer["error"]["message"].startswith("This model's maximum context length is 50 tokens.")
        assert (answer["error"]["type"], answer["error"]["param"]) == ("BadRequestError", "input_tokens")
        assert (await client.chat(ask(" word" * 60), 400))["error"]["param"] == "input_tokens"

    @pytest.mark.parametrize(
        ("wrong", "param"),
        [
            ({"n": 2, "temperature": 0}, "n"),
            ({"messages": []}, "messages"),
            ({"messages": [{"content": "x"}]}, "messages"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"temperature": "hot"}, "temperature"),
        ],
    )
    async def test_a_bad_field_is_named(self, client: Client, wrong: Answer, param: str) -> None:
        """400 with the parameter at fault."""
        answer = await client.chat(ask(**wrong), 400)
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, 400)

    @pytest.mark.parametrize(
        ("body", "param"),
        [(b"{", None), (b"\xff", None), (b"{}", "messages"), (b"[]", None)],
    )
    async def test_a_body_that_is_no_request_is_refused(
        self,
        client: Client,
        body: bytes,
        param: str | None,
    ) -> None:
        """400, recorded as rejected with what was sent."""
        async with client.session.post(CHAT, data=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == param
        (call,) = (await client.get("/simulator/calls"))["calls"]
        assert (call["outcome"], call["body"]) == ("rejected", body.decode("utf-8", "replace"))

    async def test_the_key_guards_the_api_but_not_health_and_metrics(self, connect: Connect) -> None:
        """401 without the right key; probes need none."""
        client = await connect(SimulatorConfig(api_key="secret"))
        wrong, right = ({"Authorization": f"Bearer {key}"} for key in ("wrong", "secret"))
        assert await client.chat(ask(), 401) == {"error": "Unauthorized"}
        assert await client.chat(ask(), 401, headers=wrong) == {"error": "Unauthorized"}
        await client.chat(ask(), headers=right)
        for path in ("/health", "/metrics"):
            async with client.session.get(path) as response:
                assert response.status == 200


class TestOtherEndpoints:
    async def test_models_are_listed_with_their_context_length(self, connect: Connect) -> None:
        """All of `models` are served, the first one by default."""
        client = await connect(SimulatorConfig(models=("small", "large"), max_model_len=1_000))
        listed = (await client.get("/v1/models"))["data"]
        assert [(model["id"], model["max_model_len"]) for model in listed] == [
            ("small", 1_000),
            ("large", 1_000),
        ]
        assert (await client.chat({"messages": ask()["messages"]}))["model"] == "small"
        assert (await client.chat(ask(model="large")))["model"] == "large"

    async def test_health_and_version_answer(self, client: Client) -> None:
        """As a client probes them."""
        async with client.session.get("/health") as response:
            assert (response.status, await response.text()) == (200, "")
        assert "version" in await client.get("/version")

    async def test_metrics_count_tokens_and_successes(self, client: Client) -> None:
        """The counters agree with the usage reported."""
        usages = [(await client.chat(ask(max_tokens=limit)))["usage"] for limit in (10, 1_000)]
        text = await client.metrics()
        assert metric(text, "prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
        assert metric(text, "generation_tokens_total") == sum(usage["completion_tokens"] for usage in usages)
        cut = 'engine="0",finished_reason="length",model_name="simulated"'
        assert f"vllm:request_success_total{{{cut}}} 1.0" in text
        assert metric(text, "request_success_total") == 2

    async def test_a_shared_prefix_is_cached(self, client: Client) -> None:
        """Whole blocks of 16 tokens, in the usage and in the metrics."""
        prompt = " word" * 100
        first, second = [(await client.chat(ask(prompt + end)))["usage"] for end in ("one", "two")]
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        cached = second["prompt_tokens_details"]["cached_tokens"]
        assert (cached % 16, cached >= 96) == (0, True)
        text = await client.metrics()
        assert metric(text, "prefix_cache_hits_total") == cached
        assert metric(text, "prefix_cache_queries_total") == first["prompt_tokens"] + second["prompt_tokens"]


class TestConcurrency:
    async def test_requests_beyond_the_limit_wait_in_order(self, connect: Connect) -> None:
        """One runs, the others come after it as they arrived."""
        client = await connect(SimulatorConfig(max_num_seqs=1, faults=Faults(hang=1.0, only_first=1)))
        hanging = asyncio.ensure_future(client.chat(ask("first")))
        await until(lambda: client.simulator.running == 1)
        finished: list[str] = []

        async def follow(name: str) -> None:
            await client.chat(ask(name))
            finished.append(name)

        followers = []
        for count, name in enumerate(("second", "third", "fourth"), start=1):
            followers.append(asyncio.ensure_future(follow(name)))
            await until(lambda count=count: client.simulator.waiting == count)  # type: ignore[misc]
        assert metric(await client.metrics(), "num_requests_waiting") == 3
        hanging.cancel()
        await asyncio.gather(*followers)
        assert finished == ["second", "third", "fourth"]

    async def test_a_full_queue_refuses(self, connect: Connect) -> None:
        """503 without Retry-After, once as many wait as may."""
        client = await connect(SimulatorConfig(max_num_seqs=1, max_num_queued=1, faults=Faults(hang=1.0)))
        held = [asyncio.ensure_future(client.chat(ask())) for _ in range(2)]
        await until(lambda: (client.simulator.running, client.simulator.waiting) == (1, 1))
        async with client.session.post(CHAT, json=ask()) as response:
            assert response.status == 503
            assert "Retry-After" not in response.headers
        assert client.simulator.calls()[-1].outcome == "rejected"
        for call in held:
            call.cancel()
        await until(lambda: (client.simulator.running, client.simulator.waiting) == (0, 0))

    async def test_more_seats_let_the_waiting_in(self, connect: Connect) -> None:
        """A changed limit holds at once."""
        client = await connect(SimulatorConfig(max_num_seqs=1, faults=Faults(hang=1.0, only_first=1)))
        hanging = asyncio.ensure_future(client.chat(ask()))
        await until(lambda: client.simulator.running == 1)
        waiting = asyncio.ensure_future(client.chat(ask()))
        await until(lambda: client.simulator.waiting == 1)
        client.simulator.configure(ConfigChange(max_num_seqs=2))
        await waiting
        hanging.cancel()


class TestLeaving:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_client_that_leaves_stops_the_generation(self, connect: Connect, streamed: bool) -> None:
        """The running gauge drops, no more tokens are counted, the call is recorded as aborted."""
        client = await connect(SLOW)
        await client.leave_while(ask(stream=streamed), lambda: client.simulator.running == 1)
        await until(lambda: client.simulator.running == 0)
        (call,) = client.simulator.calls()
        assert (call.outcome, client.simulator.aborted) == ("aborted", 1)
        assert metric(await client.metrics(), "num_requests_running") == 0
        assert metric(await client.metrics(), "generation_tokens_total") == call.completion_tokens
        assert metric(await client.metrics(), "request_success_total") == 0

    async def test_a_client_that_leaves_the_queue_frees_its_place(self, connect: Connect) -> None:
        """Nobody runs a request whose client has gone."""
        client = await connect(SimulatorConfig(max_num_seqs=1, faults=Faults(hang=1.0, only_first=1)))
        hanging = asyncio.ensure_future(client.chat(ask()))
        await until(lambda: client.simulator.running == 1)
        await client.leave_while(ask(), lambda: client.simulator.waiting == 1)
        await until(lambda: client.simulator.waiting == 0)
        hanging.cancel()
        await client.chat(ask())
        assert [call.outcome for call in client.simulator.calls()] == ["hang", "aborted", "completed"]


class TestFaults:
    async def outcome(self, client: Client) -> Call:
        """The only call, once it has ended."""
        await until(lambda: client.simulator.calls()[0].ended is not None)
        return client.simulator.calls()[0]

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_refuse_closes_without_a_response(self, connect: Connect, streamed: bool) -> None:
        """The client sees the server disconnect."""
        client = await connect(SimulatorConfig(faults=Faults(refuse=1.0)))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.chat(ask(stream=streamed))
        assert (await self.outcome(client)).outcome == "refuse"

    @pytest.mark.parametrize(("kind", "status"), [("http_429", 429), ("http_500", 500), ("http_503", 503)])
    async def test_http_errors_have_their_status(
        self,
        connect: Connect,
        kind: FaultKind,
        status: int,
    ) -> None:
        """429 says when to come again, the others do not."""
        client = await connect(SimulatorConfig(faults=convert({kind: 1.0, "retry_after_s": 2}, Faults)))
        async with client.session.post(CHAT, json=ask()) as response:
            assert response.status == status
            assert response.headers.get("Retry-After") == ("2" if status == 429 else None)
            assert (await response.json())["error"]["code"] == status
        assert (await self.outcome(client)).outcome == kind

    async def test_hang_never_answers(self, connect: Connect) -> None:
        """It keeps its seat until the client leaves."""
        client = await connect(SimulatorConfig(faults=Faults(hang=1.0)))
        await client.leave_while(ask(), lambda: client.simulator.running == 1)
        await until(lambda: client.simulator.running == 0)
        assert (await self.outcome(client)).outcome == "hang"

    async def test_stall_falls_silent_after_some_chunks(self, connect: Connect) -> None:
        """Text comes, the end does not; the connection stays open."""
        client = await connect(SimulatorConfig(faults=Faults(stall=1.0)))
        async with client.session.post(CHAT, json=ask(stream=True)) as response:
            seen = b""
            while seen.count(b'"content":') < 3:
                seen += await response.content.readany()
            assert not response.content.at_eof()
            assert client.simulator.running == 1
        await until(lambda: client.simulator.running == 0)
        assert b"[DONE]" not in seen
        assert (await self.outcome(client)).outcome == "stall"

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_truncate_closes_in_the_middle(self, connect: Connect, streamed: bool) -> None:
        """The client gets a beginning and then a broken connection."""
        client = await connect(SimulatorConfig(faults=Faults(truncate=1.0)))
        async with client.session.post(CHAT, json=ask(stream=streamed)) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert (await self.outcome(client)).outcome == "truncate"

    async def test_malformed_sends_a_chunk_that_is_not_json(self, connect: Connect) -> None:
        """In a stream among good chunks; otherwise the body is cut."""
        client = await connect(SimulatorConfig(faults=Faults(malformed=1.0)))
        bad = 0
        for event in events(await client.stream(ask()))[:-1]:
            try:
                json.loads(event)
            except json.JSONDecodeError:
                bad += 1
        assert bad == 1
        with pytest.raises(json.JSONDecodeError):
            await client.chat(ask())
        assert (await self.outcome(client)).outcome == "malformed"

    async def test_empty_has_no_text(self, connect: Connect) -> None:
        """A well-formed answer that says nothing."""
        client = await connect(SimulatorConfig(faults=Faults(empty=1.0), tokens_per_second=1_000))
        assert await client.text() == ""
        assert spoken(await client.stream(ask())) == ""
        assert (await self.outcome(client)).outcome == "empty"

    async def test_a_server_that_is_down_refuses_everything(self, connect: Connect) -> None:
        """While flapping has it down not even /health answers, but it can still be told to stop that."""
        client = await connect(SimulatorConfig(faults=Faults(flapping=1e-9)))
        refused = 0
        while not refused:  # periods of a nanosecond: down about every other time
            try:
                async with client.session.get("/health") as response:
                    assert response.status == 200
            except aiohttp.ClientConnectionError:
                refused += 1
        async with client.session.put("/simulator/config", json={"faults": {}}) as response:
            assert response.status == 200
        await client.text()


class TestControl:
    async def test_faults_change_while_the_server_runs(self, client: Client) -> None:
        """The first two requests after the change fail, whatever came before."""
        await client.text()
        change = {"faults": {"http_500": 1.0, "only_first": 2}, "latency_ms": 1, "answer_tokens": 20}
        async with client.session.put("/simulator/config", json=change) as response:
            assert (await response.json())["answer_tokens"] == 20
        for status in (500, 500, 200):
            await client.chat(ask(), status)
        assert client.simulator.config.latency_ms == 1

    @pytest.mark.parametrize(
        "wrong",
        [{"latncy_ms": 1}, {"latency_ms": -1}, {"faults": {"stall": 2}}, {"api_key": ""}],
    )
    async def test_a_wrong_change_changes_nothing(self, client: Client, wrong: Answer) -> None:
        """A typo in an experiment is an error."""
        before = client.simulator.config
        async with client.session.put("/simulator/config", json=wrong) as response:
            assert response.status == 400
        assert client.simulator.config == before

    async def test_the_key_is_not_told(self, connect: Connect) -> None:
        """The answer to a change shows the settings without the secret."""
        client = await connect(SimulatorConfig(api_key="secret"))
        async with client.session.put("/simulator/config", json={}) as response:
            assert "secret" not in await response.text()

    async def test_calls_are_recorded_oldest_first(self, connect: Connect) -> None:
        """Body, times, outcome and tokens of the latest requests; older ones are forgotten."""
        client = await connect(SimulatorConfig(recorded_calls=2))
        for content in ("one", "two", "three"):
            await client.chat(ask(content))
        calls = (await client.get("/simulator/calls?limit=5"))["calls"]
        assert [call["body"] for call in calls] == [ask("two"), ask("three")]
        assert [call["outcome"] for call in calls] == ["completed", "completed"]
        assert all(call["started"] <= call["ended"] and call["completion_tokens"] for call in calls)
        assert len((await client.get("/simulator/calls?limit=1"))["calls"]) == 1
        assert client.simulator.requests == 3


class TestStartingAndStopping:
    async def test_stop_cuts_off_what_is_in_flight(self, connect: Connect) -> None:
        """A hanging request does not keep the server up."""
        client = await connect(SimulatorConfig(faults=Faults(hang=1.0)))
        call = asyncio.ensure_future(client.chat(ask()))
        await until(lambda: client.simulator.running == 1)
        await client.simulator.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await call
        assert client.simulator.running == 0
        with pytest.raises(RuntimeError):
            _ = client.simulator.url

    async def test_a_taken_port_is_an_error(self) -> None:
        """Two servers do not share a port by accident."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(OSError, match="address"):
                await Simulator(SimulatorConfig(port=taken.getsockname()[1])).start()

    async def test_serve_runs_until_cancelled(self) -> None:
        """`on_ready` gets the URL of a server that answers; cancelling closes it."""
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.ensure_future(serve(SimulatorConfig(), on_ready=ready.set_result))
        async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession(await ready) as session:
            async with session.get("/health") as response:
                assert response.status == 200
            serving.cancel()
            await asyncio.wait([serving])
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get("/health")

    @pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGINT])
    def test_the_command_prints_its_url_and_stops_on_a_signal(self, signalled: signal.Signals) -> None:
        """One line when ready, exit status 0, nothing on standard error."""
        command = [sys.executable, "-W", "error", "-m", "workers.simulator", "--latency-ms", "5"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signalled)
            assert process.communicate(timeout=WITHIN_S) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()

    def test_arguments_are_the_settings(self) -> None:
        """Every setting has an option, faults are NAME=VALUE."""
        given = "--port 8000 --models a b --tokens-per-second 2.5 --fault stall=0.5 --fault only_first=3"
        assert parse_arguments(given.split()) == SimulatorConfig(
            port=8000, models=("a", "b"), tokens_per_second=2.5, faults=Faults(stall=0.5, only_first=3)
        )

    @pytest.mark.parametrize(
        "wrong", ["--fault stal=1", "--fault stall=2", "--port x", "--max-num-seqs 0", "--obedience 2"]
    )
    def test_a_wrong_argument_is_refused(self, wrong: str) -> None:
        """Exit status 2, as command lines do."""
        with pytest.raises(SystemExit) as stopped:
            parse_arguments(wrong.split())
        assert stopped.value.code == 2
