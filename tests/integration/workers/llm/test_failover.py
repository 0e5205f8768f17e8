"""Breakers, hedges and the one deadline over both: the client on simulated servers that are slow, silent or broken."""

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp import web
from msgspec import structs

from fleet import subjects
from fleet.errors import AgentCallError
from fleet.messages import ChatMessage
from tests.support.waiting import until
from tests.support.workers.calls import END, RecordingWatcher, ask, client, complete, said, server, stream
from tests.support.workers.fake_control_plane import SLOW, Plane, request, settings
from workers.calls.worker import AgentWorker
from workers.llm.client import GaveUp, ModelClient
from workers.simulator.server import ConfigChange, Faults, Simulator, SimulatorConfig

HANGING = SimulatorConfig(faults=Faults(hang=1.0))
BROKEN = SimulatorConfig(faults=Faults(http_500=1.0))
USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'


def soon(seconds: float = 0.5) -> int:
    return round((time.time() + seconds) * 1000)


def used_to(made: ModelClient, seconds: float = 0.05) -> ModelClient:
    """A client that has seen calls take as long."""
    for _ in range(20):
        made.durations.add("propose", seconds)
    return made


def first_at(made: ModelClient, url: str) -> None:
    """The next attempt goes to `url`: all others are busier."""
    for endpoint in made.endpoints.all:
        endpoint.open_calls = 0 if endpoint.name == url else 1


# --- breakers ---------------------------------------------------------------------------------------------------------


async def test_a_broken_endpoint_gets_no_more_calls_than_it_takes_to_see_it() -> None:
    """All the others' calls are answered at the first attempt from then on."""
    async with (
        Simulator(BROKEN) as broken,
        Simulator() as good,
        client(
            broken.url, good.url, breaker_failures=3, breaker_cool_down_s=600, breaker_longest_cool_down_s=600
        ) as made,
    ):
        answers = [await complete(made, ask()) for _ in range(20)]
    assert broken.requests == 3
    assert sorted(answer.attempt for answer in answers) == [1] * 17 + [2] * 3


async def test_calls_wait_for_the_probe_of_the_only_endpoint() -> None:
    """One failure opens the breaker, two probes fail alone, and after the third every call is answered."""
    faults = Faults(http_503=1.0, only_first=3)
    async with (
        Simulator(SimulatorConfig(faults=faults)) as simulator,
        client(simulator.url, max_attempts=4, breaker_failures=1, breaker_cool_down_s=0.1) as made,
    ):
        first = asyncio.create_task(complete(made, ask()))
        await until(lambda: made.status()[0].opened == 1)
        answers = await asyncio.gather(first, *(complete(made, ask()) for _ in range(19)))
        assert simulator.requests == 3 + 20
        (status,) = made.status()
    assert sum(answer.attempt - 1 for answer in answers) == 3
    assert (status.breaker, status.opened, status.open_calls) == ("closed", 3, 0)


async def test_waiting_for_a_breaker_ends_with_the_deadline() -> None:
    """The model is not asked meanwhile; the error says what was wrong with it."""
    async with (
        Simulator(BROKEN) as simulator,
        client(simulator.url, breaker_failures=1, breaker_cool_down_s=600) as made,
    ):
        with pytest.raises(GaveUp, match=r"breaker was open.*; before that ServerError") as raised:
            await complete(made, ask(deadline_ms=soon()))
        assert simulator.requests == 1
    assert (raised.value.error_type, raised.value.retryable) == ("DeadlineExceeded", False)


async def test_a_server_that_is_busy_keeps_its_breaker_closed() -> None:
    """429 says when to come again, and is obeyed."""
    faults = Faults(http_429=1.0, only_first=8, retry_after_s=0.01)
    async with (
        Simulator(SimulatorConfig(faults=faults)) as simulator,
        client(simulator.url, max_attempts=9, breaker_failures=1) as made,
    ):
        answer = await complete(made, ask())
        assert made.status()[0].opened == 0
    assert answer.attempt == 9


async def test_a_task_that_a_server_fails_at_holds_nobody_up() -> None:
    """However many calls it has: the breaker stays closed, and sound tasks are answered at their first attempt."""

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if "poison" in body["messages"][0]["content"]:
            return web.json_response({"error": {"message": "EngineCore died on it"}}, status=500)
        return await stream(request, said("fine"), END)

    poison = (ChatMessage(role="user", content="poison"),)
    async with server(chat) as url, client(url, breaker_failures=3) as made:
        bad = [asyncio.create_task(complete(made, ask(messages=poison, task_id="bad"))) for _ in range(8)]
        answers = await asyncio.gather(*(complete(made, ask(task_id=str(number))) for number in range(20)))
        failures = await asyncio.gather(*bad, return_exceptions=True)
        assert made.status()[0].opened == 0
    assert {answer.attempt for answer in answers} == {1}
    assert {type(failure) for failure in failures} == {GaveUp}


# --- hedges -----------------------------------------------------------------------------------------------------------


async def test_a_slow_attempt_is_overtaken_by_another_endpoint() -> None:
    """One answer, from the second attempt; the first one's connection is closed; their texts do not mix."""
    async with Simulator(SLOW) as slow, Simulator() as quick, client(slow.url, quick.url, hedge_after=2.0) as made:
        used_to(made)
        first_at(made, slow.url)
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard, first_attempt=7)
        await until(lambda: slow.aborted == 1)
        assert [call.request_id for call in quick.calls()] == ["t.0.propose.a.8"]
        assert slow.requests == 1
    assert (answer.attempt, answer.content) == (8, heard.texts[8])
    assert heard.errors == ["Overtaken"]
    assert answer.spent.usage.completion_tokens == answer.tokens


async def test_a_first_attempt_that_ends_first_closes_the_second() -> None:
    """Its text is nobody's."""
    pace = SimulatorConfig(tokens_per_second=50, answer_tokens=30)
    async with (
        Simulator(pace) as steady,
        Simulator(HANGING) as hanging,
        client(steady.url, hanging.url, hedge_after=2.0) as made,
    ):
        used_to(made, 0.01)
        first_at(made, steady.url)
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard)
        await until(lambda: hanging.aborted == 1)
    assert (answer.attempt, heard.errors, list(heard.texts)) == (1, [], [1])
    assert answer.content == heard.texts[1]


async def test_what_both_attempts_used_is_counted() -> None:
    """As far as their servers have said so."""
    forever = asyncio.Event()

    async def say_and_hang(request: web.Request) -> web.StreamResponse:
        response = await stream(request, said("first"), USAGE)
        await forever.wait()
        return response

    async def answer_at_once(request: web.Request) -> web.StreamResponse:
        return await stream(request, said("second"), USAGE, END)

    async with (
        server(say_and_hang) as slow,
        server(answer_at_once) as quick,
        client(slow, quick, hedge_after=2.0) as made,
    ):
        used_to(made)
        first_at(made, slow)
        answer = await complete(made, ask())
        forever.set()
    assert (answer.content, answer.tokens) == ("second", 2)
    assert (answer.spent.usage.prompt_tokens, answer.spent.usage.completion_tokens) == (10, 4)


async def test_two_attempts_that_both_fail_are_one_failure_of_the_call() -> None:
    """It has the rest of its attempts, which are numbered on, and no second hedge."""
    stalling = SimulatorConfig(faults=Faults(stall=1.0, only_first=1))
    async with (
        Simulator(stalling) as one,
        Simulator(SimulatorConfig(faults=Faults(http_500=1.0, only_first=1))) as two,
        client(one.url, two.url, hedge_after=2.0, stall_timeout_s=0.4, max_attempts=2) as made,
    ):
        used_to(made)
        first_at(made, one.url)
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard)
        assert one.requests + two.requests == 3
    assert (answer.attempt, heard.errors) == (3, ["StreamStalled"])


@pytest.mark.parametrize(("endpoints", "limits"), [(2, {}), (1, {"hedge_after": 2.0})])
async def test_without_another_endpoint_or_the_setting_nothing_is_hedged(
    endpoints: int, limits: dict[str, Any]
) -> None:
    """A slow call is left to itself."""
    pace = SimulatorConfig(tokens_per_second=100, answer_tokens=30)
    async with (
        Simulator(pace) as one,
        Simulator(pace) as two,
        client(*[one.url, two.url][:endpoints], **limits) as made,
    ):
        used_to(made, 0.01)
        answer = await complete(made, ask())
        assert one.requests + two.requests == 1
    assert answer.attempt == 1


async def test_a_cancelled_call_closes_both_its_attempts() -> None:
    """No server generates for nobody."""
    async with Simulator(SLOW) as one, Simulator(SLOW) as two, client(one.url, two.url, hedge_after=2.0) as made:
        used_to(made)
        task = asyncio.create_task(complete(made, ask()))
        await until(lambda: one.requests + two.requests == 2)
        task.cancel()
        await until(lambda: one.aborted + two.aborted == 2)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_how_long_calls_take_is_learned_from_those_that_were_answered() -> None:
    """After ten of them, a call to a server that has become slow is overtaken."""
    async with Simulator() as one, Simulator() as two, client(one.url, two.url, hedge_after=20.0) as made:
        for _ in range(10):
            await complete(made, ask())
        one.configure(ConfigChange(tokens_per_second=20, answer_tokens=10_000))
        first_at(made, one.url)
        answer = await complete(made, ask())
    assert answer.attempt == 2


async def test_a_hedged_call_is_answered_once(nats_url: str) -> None:
    """By the attempt that won; what is told of that attempt is its text and nothing else."""
    plane = Plane(nats_url)
    await plane.open()
    async with Simulator() as one, Simulator() as two:
        hedging = structs.replace(settings(plane, one, hedge_after=20.0), vllm_urls=(one.url, two.url))
        async with AgentWorker.open(hedging, "worker"):
            for number in range(10):
                await plane.submit(request(agent_id=f"agent-dev-{number}"))
            await plane.next(subjects.AGENT_COMPLETED, 10)
            # The task's own server, where its next call begins.
            slow = max(one, two, key=lambda server: server.requests)
            slow.configure(ConfigChange(tokens_per_second=20, answer_tokens=10_000))
            await plane.submit(request(agent_id="agent-dev-10"))
            await plane.next(subjects.AGENT_COMPLETED, 11)
            await until(lambda: slow.aborted == 1)
            await plane.settled()
    await plane.nc.close()
    answers = [json.loads(msg.data) for msg in plane.of(subjects.AGENT_COMPLETED)]
    (hedged,) = [body for body in answers if body["agent_id"] == "agent-dev-10"]
    assert hedged["attempt"] == 2
    told = [json.loads(msg.data) for msg in plane.of(subjects.AGENT_PROGRESS)]
    text = "".join(
        body["text_delta"] for body in told if (body["agent_id"], body["attempt"]) == (hedged["agent_id"], 2)
    )
    assert len(answers) == 11
    assert text == hedged["proposal"]["content"]


# --- one deadline -----------------------------------------------------------------------------------------------------


async def test_no_hedge_outlives_the_deadline() -> None:
    """Both attempts are closed."""
    async with Simulator(SLOW) as one, Simulator(SLOW) as two, client(one.url, two.url, hedge_after=2.0) as made:
        used_to(made)
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask(deadline_ms=soon(3.0)))
        await until(lambda: one.aborted + two.aborted == 2)
    assert raised.value.error_type == "DeadlineExceeded"


async def test_no_repair_outlives_the_deadline() -> None:
    """What was invalid before stands in the error."""
    forever, bodies = asyncio.Event(), list[Any]()

    async def chat(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        if len(bodies) == 1:
            return await stream(request, said("no JSON"), USAGE, END)
        response = await stream(request, said("{"))
        await forever.wait()
        return response

    async with server(chat) as url, client(url) as made:
        with pytest.raises(GaveUp, match="before that InvalidAnswer") as raised:
            await complete(made, ask(answer_schema={"type": "object"}, deadline_ms=soon()))
        forever.set()
    assert (raised.value.error_type, raised.value.attempt) == ("DeadlineExceeded", 2)
    assert raised.value.spent.usage.completion_tokens == 2


async def test_no_pause_between_attempts_outlives_the_deadline() -> None:
    """A pause that would is not begun: the error stands."""
    faults = Faults(http_429=1.0, retry_after_s=30)
    async with Simulator(SimulatorConfig(faults=faults)) as simulator, client(simulator.url) as made:
        with pytest.raises(GaveUp) as raised:
            await complete(made, ask(deadline_ms=soon(5)))
    assert raised.value.error_type == "RateLimited"


async def test_asking_a_server_for_its_models_ends_with_the_deadline() -> None:
    """Also where several calls wait for the same answer."""
    forever = asyncio.Event()

    async def models(_: web.Request) -> web.Response:
        await forever.wait()
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with client(f"http://127.0.0.1:{runner.addresses[0][1]}") as made:
        given = ask(deadline_ms=soon())
        ended = await asyncio.gather(*(complete(made, given) for _ in range(3)), return_exceptions=True)
    forever.set()
    await runner.cleanup()
    assert [error.error_type for error in ended if isinstance(error, AgentCallError)] == ["DeadlineExceeded"] * 3
