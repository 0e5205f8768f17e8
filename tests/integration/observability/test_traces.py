"""Traces as a foreign receiver of OTLP sees them: whole, whatever is retried, delivered again or killed."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fleet import subjects
from fleet.bench.speed.otlp_receiver import Received, attributes, receiving
from fleet.config import Settings
from fleet.jetstream import connection
from fleet.jetstream.history import events
from fleet.messages.trace_ids import context_of
from fleet.observability import otlp
from fleet.observability.tracing import tracer_of
from tests.support.fleets.control_plane import client_on
from tests.support.fleets.processes import Component
from tests.support.fleets.whole_fleet import whole
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import Plane, request, working
from workers.simulator.faults import Faults
from workers.simulator.server import Simulator, SimulatorConfig

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def until_whole(received: Received, tasks: list[str]) -> None:
    """Until the root of each task has come, and no span waits for its parent."""
    known = frozenset({bytes.fromhex(PARENT.split("-")[2])})

    def is_whole() -> bool:
        roots = {attributes(span)["fleet.task_id"] for span in received.named("invoke_workflow ")}
        return roots >= set(tasks) and not received.orphans(known)

    await until(is_whole)


async def ended(fleet: Any, tasks: list[str]) -> None:
    async with asyncio.timeout(120):
        for task_id in tasks:
            await until(lambda task_id=task_id: {*fleet.inbox.of(task_id)} & {*subjects.TERMINAL})


def under(spans: list[Any], parent: Any) -> list[Any]:
    return [span for span in spans if span.parent_span_id == parent.span_id]


async def test_a_deliberation_is_one_trace(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the publisher's context to each attempt, with retries as they were; the model server gets its context."""
    config = SimulatorConfig(faults=Faults(http_503=1.0, only_first=1, retry_after_s=0.05))
    async with receiving() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        async with whole(nats_url, config) as fleet:
            await fleet.nc.request(
                subjects.REQUESTED,
                json.dumps({"task_id": "t", "task_description": "x", "num_agents": 2, "rounds": 0}).encode(),
                headers={"traceparent": PARENT},
            )
            await ended(fleet, ["t"])
            await until_whole(received, ["t"])
    trace = received.of("t")
    assert trace == list(received.spans.values())
    (root,) = received.named("invoke_workflow deliberation")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
    assert attributes(root)["fleet.status"] == "COMPLETED"
    phases = {span.name: span for span in under(trace, root)}
    assert phases.keys() == {"phase propose", "phase score"}
    calls = [call for phase in phases.values() for call in under(trace, phase)]
    assert [call.name for call in calls] == ["invoke_agent DEV"] * 4
    chats = [chat for call in calls for chat in under(trace, call)]
    assert {chat.name for chat in chats} == {"chat simulated"}
    failed = [attributes(chat)["error.type"] for chat in chats if "error.type" in attributes(chat)]
    assert (len(chats), failed) == (5, ["ServerError"])
    said = attributes(next(chat for chat in chats if "error.type" not in attributes(chat)))
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "vllm"
    assert said["gen_ai.usage.input_tokens"] > 0
    assert not [name for name in said if "messages" in name]
    assert {received.services[span.span_id] for span in trace} >= {"fleet-collector", "fleet-worker"}
    for span in trace:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano


async def test_content_is_an_attribute_only_where_it_is_asked_for(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt and the answer, as the conventions spell them."""
    async with receiving() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{received.url}/v1/traces")
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
        async with whole(nats_url) as fleet:
            task_id = await fleet.request(task_id="t", task_description="a Swiss clock", num_agents=1)
            await ended(fleet, [task_id])
            await until_whole(received, [task_id])
    (chat,) = received.named("chat ")
    (answer,) = json.loads(attributes(chat)["gen_ai.output.messages"])
    assert answer["role"] == "assistant"
    assert "a Swiss clock" in attributes(chat)["gen_ai.input.messages"]


async def test_what_is_not_sampled_is_not_exported(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the publisher's flag, whatever the settings say."""
    async with receiving() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        async with whole(nats_url) as fleet:
            body = {"task_id": "no", "task_description": "x", "num_agents": 1}
            unsampled = {"traceparent": f"{PARENT[:-2]}00"}
            await fleet.nc.request(subjects.REQUESTED, json.dumps(body).encode(), headers=unsampled)
            await fleet.request(task_id="yes", num_agents=1)
            await ended(fleet, ["no", "yes"])
            await until_whole(received, ["yes"])
    assert {attributes(span)["fleet.task_id"] for span in received.named("invoke_workflow ")} == {"yes"}


async def test_every_message_of_a_task_carries_its_trace(nats_url: str) -> None:
    """With tracing off, too: logs and messages of one task belong together."""
    async with whole(nats_url) as fleet:
        await fleet.request(task_id="t", num_agents=2, rounds=0)
        await ended(fleet, ["t"])
        js = fleet.nc.jetstream()
        kinds = (subjects.AGENT_COMPLETED,)
        stored = [msg async for msg in events(js, kinds, None, stream=subjects.AGENT_RESPONSES)]
        stored += [msg async for msg in events(js, (subjects.ACCEPTED, subjects.COMPLETED), None)]
    contexts = [context_of((msg.headers or {})["traceparent"]) for msg in stored]
    assert len(contexts) == 6
    assert len({context.trace_id for context in contexts if context}) == 1


def test_nothing_is_traced_without_the_standard_variables() -> None:
    """Nor where they switch it off."""
    on = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    for environ in ({}, {**on, "OTEL_SDK_DISABLED": "true"}, {**on, "OTEL_TRACES_EXPORTER": "none"}):
        assert tracer_of("test", environ) is None


@pytest.mark.slow
async def test_killed_components_leave_no_broken_trace(nats_url: str, tmp_path: Path) -> None:
    """Dispatchers, collectors and workers are killed under load: one trace for each deliberation, without an orphan,
    and every call that the fleet has counted in exactly one of them.
    """
    config = tmp_path / "fleet.toml"
    config.write_text("[workers]\nack_wait_s = 3\n[roles.DEV]\nmax_tokens = 2000\n")
    faults = Faults(http_503=0.1, empty=0.05, retry_after_s=0.05)
    async with (
        receiving() as received,
        Simulator(SimulatorConfig(faults=faults, latency_ms=100)) as model,
        AsyncExitStack() as stack,
    ):
        environ = {"NATS_URL": nats_url, "VLLM_URL": model.url, "FLEET_CONFIG": str(config)}
        parts = [
            Component(kind, tmp_path / f"{kind}-{n}.log", OTEL_EXPORTER_OTLP_ENDPOINT=received.url, **environ)
            for kind in ("dispatcher", "collector", "worker")
            for n in (1, 2)
        ]
        for part in parts:
            stack.push_async_callback(part.end, signal.SIGKILL)
        await asyncio.gather(*(part.start() for part in parts))
        nc = await connection.connect(Settings(nats_url=nats_url), "client")
        stack.push_async_callback(nc.close)
        fleet = await client_on(nc)

        tasks = []
        for number, victim in enumerate(parts):
            tasks += [await fleet.request(task_id=f"t-{number}-{n}", num_agents=2, rounds=n % 2) for n in range(5)]
            await fleet.inbox.next(subjects.ACCEPTED, task_id=tasks[-1])
            await victim.end(signal.SIGKILL)
            await victim.start()
        await ended(fleet, tasks)
        await until_whole(received, tasks)
        counted = {
            body["task_id"]: body["usage"]["calls"]
            for subject, _, body in fleet.inbox.events
            if subject in subjects.TERMINAL
        }
        # What a killed worker had answered and not told of is told by whoever gets its message next.
        await until(lambda: all(len(slots_of(received, task_id)) >= counted[task_id] for task_id in tasks))

    roots = [attributes(span)["fleet.task_id"] for span in received.named("invoke_workflow ")]
    assert sorted(roots) == sorted(tasks)
    assert len(received.traces) == len(tasks)
    assert received.orphans() == []
    assert {task_id: len(slots_of(received, task_id)) for task_id in tasks} == counted


def slots_of(received: Received, task_id: str) -> set[tuple[Any, ...]]:
    """The calls that the trace of a task tells of."""
    calls = [attributes(span) for span in received.of(task_id) if span.name.startswith("invoke_agent ")]
    return {(call["fleet.phase"], call["fleet.round"], call["gen_ai.agent.id"]) for call in calls}


async def test_a_slow_receiver_of_spans_holds_up_no_call(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with room for one call answers the next one while the spans of the first are still on their way."""
    monkeypatch.setattr(otlp, "EXPORTED_WITHIN_S", 600.0)
    answer = asyncio.Event()

    class Slow(Received):
        async def take(self, request: web.Request) -> web.Response:
            await answer.wait()
            return await super().take(request)

    async with receiving(Slow()) as received, Simulator() as simulator:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        async with working(plane, simulator, calls_per_worker=1):
            for number in (1, 2):
                await plane.submit(request(question=number))
            await plane.next(subjects.AGENT_COMPLETED, 2)
            assert not received.spans
            answer.set()
            await plane.settled()
    assert len(received.named("invoke_agent ")) == 2
