"""Calls that bring their worker down, or fail in it, are answered after a few times, and not handed on for ever."""

import json
import signal
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from structlog.testing import capture_logs

from fleet import subjects
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import SLOW, Plane, request, settings, worker_process, working
from workers.calls import responses
from workers.calls.deliveries import leases
from workers.calls.publisher import WorkerPublisher
from workers.calls.worker import AgentWorker
from workers.simulator.server import Simulator, SimulatorConfig

_CHAIN = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
DOUBLING = {"not": {"$ref": "#/$defs/a0"}, "$defs": {**_CHAIN, "a40": {"type": "null"}}, "type": "string"}
QUICK = SimulatorConfig(answer_tokens=5)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
async def test_a_call_that_was_lost_with_two_workers_gets_no_third_one(
    plane: Plane, tmp_path: Path, how: signal.Signals
) -> None:
    """Killed or frozen: the third does not begin with it, and says why; other calls it makes."""
    await plane.put_state()
    async with Simulator(SLOW) as slow, Simulator(QUICK) as quick:
        await plane.submit(request())
        async with worker_process(plane, slow, tmp_path) as first:
            await until(lambda: slow.requests == 1)
            first.send_signal(how)
            async with worker_process(plane, slow, tmp_path) as second:
                await until(lambda: slow.requests == 2)
                second.send_signal(how)
                async with working(plane, quick):
                    body = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
                    await plane.settled()
                    assert quick.requests == 0
                    await plane.submit(request(agent_id="agent-dev-002"))
                    await plane.next(subjects.AGENT_COMPLETED)
                if how is signal.SIGSTOP:
                    for zombie in (first, second):
                        zombie.send_signal(signal.SIGKILL)
    assert (body["error_type"], body["retryable"], body["agent_id"]) == ("WorkerLost", False, "agent-dev-001")


async def test_a_call_that_was_handed_back_is_made(plane: Plane) -> None:
    """However often: its workers were well."""
    await plane.put_state()
    async with Simulator(SLOW) as slow, Simulator(QUICK) as quick:
        await plane.submit(request())
        for times in range(1, 4):
            async with AgentWorker.open(settings(plane, slow), f"worker-{times}"):
                await until(lambda times=times: slow.requests == times)  # type: ignore[misc]
        async with working(plane, quick):
            await plane.next(subjects.AGENT_COMPLETED)
    assert not plane.of(subjects.AGENT_FAILED)


async def test_an_error_of_ours_is_answered_the_second_time(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is asked twice, and not until the deadline."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    await plane.put_state()
    monkeypatch.setattr(responses, "completed", broken)
    async with Simulator(QUICK) as simulator, working(plane, simulator):
        await plane.submit(request())
        body = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
        await plane.settled()
        assert simulator.requests == 2
    assert (body["error_type"], body["retryable"]) == ("InternalError", False)
    assert "ZeroDivisionError" in body["error"]


async def test_nats_that_is_too_slow_is_no_error_of_ours(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often: the call is handed back for later each time, with one line and no traceback."""
    slow = 0

    async def too_slow(publisher: WorkerPublisher, body: bytes) -> bytes:
        nonlocal slow
        slow += 1
        if slow <= 3:
            raise nats.errors.TimeoutError
        return body

    await plane.put_state()
    monkeypatch.setattr(WorkerPublisher, "inline", too_slow)
    monkeypatch.setattr(leases, "FIRST_DELAY_S", 0.05)
    async with Simulator(QUICK) as simulator:
        with capture_logs() as logs:
            async with working(plane, simulator):
                await plane.submit(request())
                await plane.next(subjects.AGENT_COMPLETED)
                await plane.settled()
    told = [(line["event"], line["log_level"]) for line in logs if line["event"].startswith("agent.")]
    assert told[:3] == [("agent.handed_back", "warning")] * 3
    assert "agent.internal_error" not in dict(told)
    assert not any("exc_info" in line for line in logs)
    assert not plane.of(subjects.AGENT_FAILED)


@pytest.mark.slow
async def test_an_answer_that_cannot_be_checked_in_time_fails_its_call_alone(plane: Plane) -> None:
    """Other calls are answered meanwhile, and the model is not asked again."""
    await plane.put_state()
    async with Simulator(QUICK) as simulator, working(plane, simulator):
        await plane.submit(request(answer_schema=DOUBLING))
        await until(lambda: simulator.requests == 1 and simulator.running == 0)
        await plane.submit(request(agent_id="agent-dev-002"))
        await plane.next(subjects.AGENT_COMPLETED)
        assert not plane.of(subjects.AGENT_FAILED)
        body = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
        await plane.settled()
        assert simulator.requests == 2
    assert (body["error_type"], body["agent_id"]) == ("UncheckedAnswer", "agent-dev-001")


async def test_a_stop_ends_a_check(plane: Plane) -> None:
    """As it ends a call that the model is still answering."""
    await plane.put_state()
    async with Simulator(QUICK) as simulator, working(plane, simulator) as worker:
        await plane.submit(request(answer_schema=DOUBLING))
        await until(lambda: simulator.requests == 1 and simulator.running == 0)
        await plane.put_state("CANCELLED")
        await plane.nc.publish(subjects.AGENT_STOP, b'{"task_id": "t"}')
        await plane.settled()
        await until(lambda: worker.status().open_calls == 0)
    assert not plane.of(subjects.AGENT_FAILED)
