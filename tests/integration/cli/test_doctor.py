"""`fleet doctor` on fleets that are well, that would not serve a request, and that may not be looked at."""

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.cli.doctor import workers
from fleet.client.session import session
from fleet.config import load
from fleet.jetstream import topology, worker_statuses
from fleet.messages.workers import WorkerStatus
from tests.support import agents
from tests.support.client import commands
from tests.support.fleets.control_plane import running
from tests.support.nats.permitted import permitted
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import Plane, request, settings, working
from workers.simulator.server import ConfigChange, Faults, Simulator, SimulatorConfig


async def doctor(nats_url: str, data_dir: Path, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the findings by what they are about."""
    words = ("doctor", "--json", "--nats-url", nats_url, "--data-dir", str(data_dir))
    status, out, err = await commands.fleet(*words, **environ)
    assert err == ""
    return status, {finding["what"]: finding for finding in json.loads(out)}


async def test_a_fleet_that_serves(nats_url: str, tmp_path: Path) -> None:
    """Everybody is at work, nothing waits, and the model has said a word. A dead letter is told."""
    async with Simulator(SimulatorConfig()) as model, running(nats_url, agents.answer) as fleet:
        status, found = await doctor(nats_url, tmp_path, VLLM_URL=model.url)
        assert [what for what, finding in found.items() if finding["verdict"] == "fail"] == []
        assert status == 0
        for what in ("dispatcher", "collector", "service", "workers", "waiting", "dead letters", f"vllm {model.url}"):
            assert found[what]["verdict"] == "ok", found[what]
        js = fleet.nc.jetstream()
        await js.publish(f"{subjects.DEADLETTER}.x", b"?")
        await js.publish(subjects.replayed(1), b"{}")
        _, found = await doctor(nats_url, tmp_path, VLLM_URL=model.url)
        assert found["dead letters"]["found"].startswith("1 message ")


async def test_a_request_that_broke_a_rule_is_its_clients_matter(nats_url: str, tmp_path: Path) -> None:
    """The operator has nothing to do about it; what nobody could handle is a warning beside it."""
    async with Simulator(SimulatorConfig()) as model, running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        for body in (b'{"num_agents": 99}', b"no json"):
            await js.publish(subjects.REQUESTED, body)

        async def buried() -> bool:
            return int((await js.stream_info(subjects.DEAD_LETTERS)).state.messages) == 2

        await until(buried)
        _, found = await doctor(nats_url, tmp_path, VLLM_URL=model.url)
        told = "2 requests that broke a rule, as their clients were told (`fleet deadletter list`)"
        assert found["dead letters"] == {"verdict": "ok", "what": "dead letters", "found": told, "todo": ""}
        await js.publish(f"{subjects.DEADLETTER}.x", b"?")
        _, found = await doctor(nats_url, tmp_path, VLLM_URL=model.url)
        assert found["dead letters"]["verdict"] == "warn"
        assert found["dead letters"]["found"] == f"1 message that nobody could handle, and {told}"


async def test_a_fleet_that_would_not_serve(nats_url: str, tmp_path: Path) -> None:
    """Nobody is at work, a request waits, and no model answers: each is named, and the status is 1."""
    async with running(nats_url, agents.answer):
        pass
    status, found = await doctor(nats_url, tmp_path, VLLM_URL="http://127.0.0.1:9")
    assert status == 1
    failed = {what for what, finding in found.items() if finding["verdict"] == "fail"}
    assert failed == {"dispatcher", "collector", "service", "workers", "vllm http://127.0.0.1:9"}
    assert all(found[what]["todo"] for what in failed)
    assert "Errno" not in json.dumps(found)


async def test_workers_and_breakers(plane: Plane, tmp_path: Path) -> None:
    """Each worker with its age; a model server whose breaker is open at all of them serves nobody."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(Simulator(SimulatorConfig()))
        fleet = await stack.enter_async_context(working(plane, model))
        name = f"calls to {model.url}"
        async with session(settings(plane, model)) as client:
            await until_told(client.nc, lambda worker: worker.name == "worker-test")
            told = {finding.what: finding for finding in workers.findings(await worker_statuses.look(client.nc))}
            assert told["worker worker-test"].verdict == told[name].verdict == "ok"
            assert "breaker closed" in told[name].found

            model.configure(ConfigChange(faults=Faults(refuse=1.0)))
            for number in range(5):
                await plane.submit(request(task_id=f"t{number}"))
            await until(lambda: fleet.status().endpoints[0].breaker == "open")
            await until_told(client.nc, lambda worker: worker.endpoints[0].breaker == "open")
            told = {finding.what: finding for finding in workers.findings(await worker_statuses.look(client.nc))}
            assert told[name].verdict == "fail"


async def until_told(nc: Any, fact: Callable[[WorkerStatus], bool]) -> None:
    async def is_told() -> bool:
        return any(fact(worker) for worker in await worker_statuses.look(nc) or ())

    await until(is_told)


@pytest.mark.usefixtures("nats_binary")
async def test_who_may_not_look_is_told_so(tmp_path: Path) -> None:
    """A worker's user sees little of a fleet, and a wrong password nothing."""
    async with permitted(tmp_path / "nats") as users:
        async with users.connected("control") as (nc, _):
            await topology.declare(nc.jetstream(), load({}))
        _, found = await doctor(users.url("worker"), tmp_path)
        assert "may not publish" in found["permissions"]["found"]
        status, found = await doctor(users.url("worker").replace(":", ":x", 2), tmp_path)
        assert status == 3
        assert "refuses user" in found["NATS"]["found"]
        assert "wrong" in found["NATS"]["todo"]


async def test_credentials_that_are_not_there_are_one_line(nats_url: str, tmp_path: Path) -> None:
    """What else was being looked at is given up without a word."""
    words = ("doctor", "--nats-url", nats_url, "--data-dir", str(tmp_path))
    gone = str(tmp_path / "gone.creds")
    status, out, err = await commands.fleet(*words, NATS_CREDS=gone, VLLM_URL="http://127.0.0.1:9")
    assert (status, out) == (2, "")
    assert err == f"fleet: NATS_CREDS: cannot read {gone}: No such file or directory\n"
