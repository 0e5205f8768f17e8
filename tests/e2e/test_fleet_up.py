"""`fleet up` from the outside: a raw NATS client on one side, a foreign model server on the other."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Up, environment, start, stop
from tests.e2e.stub import StubModel
from tests.support.waiting import WITHIN_S


def texts(request: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in request["messages"])


def asked(stub: StubModel, marker: str) -> list[dict[str, Any]]:
    """Requests whose prompt contains `marker`."""
    return [request for request in stub.requests if marker in texts(request)]


async def test_the_main_job(up: Up, stub: StubModel) -> None:
    """One fleet, one client: the calls that the contract implies, anonymous reviews, profiles that reach the request,
    progress for late watchers, retries, rejections, cancel, a killed component, and results that name what failed.
    """
    await calls_are_those_of_the_contract(up, stub)
    await profile_reaches_the_request(up, stub)
    await progress_is_replayable(up)
    await failed_attempts_are_retried_and_refusals_are_not(up, stub)
    await cancel_closes_the_models_connections(up, stub)
    await options_shape_the_council(up, stub)
    await council_without_a_leader_goes_on(up, stub)
    await checks_are_in_the_result(up, stub)
    await killed_components_are_started_again(up)


async def calls_are_those_of_the_contract(up: Up, stub: StubModel) -> None:
    result = await up.result(await up.request(num_agents=3, rounds=1, options={"seed": 100}))
    assert (result["status"], result["degraded"], result["rounds_run"]) == ("COMPLETED", False, 1)
    assert len(stub.requests) == 12
    assert len({json.dumps(request["messages"][0]) for request in stub.requests}) == 1
    assert len({request["seed"] for request in stub.requests}) == 12
    assert all(request["stream"] and request["model"] == "stub-model" for request in stub.requests)
    for request in stub.requests:
        prompt = texts(request)
        assert "agent-dev" not in prompt
        assert "stub-model" not in prompt
    structured = Counter("response_format" in request for request in stub.requests)
    assert structured == {True: 6, False: 6}
    # Each author was shown its own first text, and each reviewer exactly the two others'.
    first, revised = stub.answers[:3], stub.answers[6:9]
    revisions, reviews, scores = stub.requests[6:9], stub.requests[3:6], stub.requests[9:12]
    for shown, proposals in ((reviews, first), (scores, revised)):
        for text in proposals:
            assert sum(text in texts(request) for request in shown) == 2
    assert [sum(text in texts(request) for text in first) for request in revisions] == [1, 1, 1]
    assert {result["proposal"]["content"] for result in result["results"]} == set(revised)
    assert result["usage"]["calls"] == 12
    assert result["usage"]["prompt_tokens"] == 120


async def profile_reaches_the_request(up: Up, stub: StubModel) -> None:
    done = await up.result(await up.request(role="QA", num_agents=1, task_description="profile of QA"))
    (request,) = asked(stub, "profile of QA")
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("other-model", 0.25, 333)
    assert "You doubt everything." in texts(request)
    assert done["results"][0]["proposal"]["model"] == "other-model"
    own_role = await up.result(await up.request(role="POET", num_agents=1))
    assert own_role["winner_id"] == "agent-poet-001"


async def progress_is_replayable(up: Up) -> None:
    task_id = await up.request(num_agents=1, task_id="watched")
    done = await up.result(task_id)
    sub = await up.nc.jetstream().subscribe("agent.response.progress", ordered_consumer=True)
    text, finished = "", False
    while not finished:
        msg = await sub.next_msg(timeout=WITHIN_S)
        event = json.loads(msg.data)
        if event["task_id"] == task_id:
            assert 0 <= event["progress_pct"] <= 100
            text += event["text_delta"]
            finished = event["progress_pct"] == 100
    await sub.unsubscribe()
    assert text == done["results"][0]["proposal"]["content"]


async def failed_attempts_are_retried_and_refusals_are_not(up: Up, stub: StubModel) -> None:
    stub.statuses = [503, 429]
    done = await up.result(await up.request(num_agents=1, task_description="try again"))
    assert (done["status"], done["degraded"]) == ("COMPLETED", False)
    assert len(asked(stub, "try again")) == 3
    stub.statuses = [400]
    failed = await up.result(await up.request(num_agents=1, task_description="never again"))
    assert failed["status"] == "FAILED"
    assert len(asked(stub, "never again")) == 1
    assert failed["failed_agents"][0]["error_type"] == "BadRequest"
    assert "told to fail" in failed["failed_agents"][0]["error"]


async def cancel_closes_the_models_connections(up: Up, stub: StubModel) -> None:
    stub.gate.clear()
    task_id = await up.request(num_agents=3, task_id="cancelled")
    await stub.until_open(3)
    reply = await up.nc.request(
        "deliberation.cancel", b'{"task_id": "cancelled", "reason": "enough"}', timeout=WITHIN_S
    )
    assert json.loads(reply.data) == {"task_id": task_id, "status": "CANCELLED"}
    await stub.until_open(0)
    stub.gate.set()
    assert (await up.result(task_id))["reason"] == "enough"


async def options_shape_the_council(up: Up, stub: StubModel) -> None:
    fields = {"limit": {"type": "integer", "maximum": 9}, "why": {"type": "string", "description": "numbered"}}
    limit = {"type": "object", "properties": fields, "required": ["limit", "why"]}
    options = {"roles": ["DEV", "QA"], "models": ["one", "two"], "selection": "architect", "synthesis": True}
    body = {"task_description": "a mixed council", "rounds": 1, "options": {**options, "output_schema": limit}}
    result = await up.result(await up.request(**body, num_agents=3))
    requests = asked(stub, "a mixed council")
    assert (result["status"], result["failed_agents"]) == ("COMPLETED", [])
    # The merged text is one more candidate: the two others compare it with the winner, in both orders.
    assert len(requests) == 3 * 4 + 2 + 1 + 2 * 2
    assert Counter(request["model"] for request in requests)["one"] == 2 * 4 + 1 + 2
    assert {entry["agent_id"] for entry in result["results"]} == {"agent-dev-001", "agent-qa-001", "agent-dev-002"}
    assert {json.loads(entry["proposal"]["content"])["limit"] for entry in result["results"]} == {9}
    # The stub names whatever is shown first: in both orders, so it contradicts itself.
    assert result["selection"]["contradicted"]
    assert result["synthesis"]["content"] in stub.answers
    voted = await up.result(await up.request(task_description="a vote", rounds=0, options={"selection": "vote"}))
    assert sum(entry["votes"] for entry in voted["results"]) == 3


async def council_without_a_leader_goes_on(up: Up, stub: StubModel) -> None:
    result = await up.result(await up.request(task_description="all of one mind", num_agents=3, rounds=2))
    assert len(asked(stub, "all of one mind")) == 3 + 2 * (3 + 3) + 3
    assert result["rounds_run"] == len(result["rounds"]) == 2


async def checks_are_in_the_result(up: Up, stub: StubModel) -> None:
    constraints = {"policy": {"required": ["answer number"], "forbidden": ["^The"]}, "requirements": ["is short"]}
    result = await up.result(await up.request(task_description="checked", rounds=0, constraints=constraints))
    for entry in result["results"]:
        assert entry["checks"]["policy"]["status"] == "failed"
        assert "^The" in entry["checks"]["policy"]["findings"][0]
        assert entry["checks"]["requirements"] == {"status": "passed", "findings": []}
        assert entry["score"] == 9.0


async def killed_components_are_started_again(up: Up) -> None:
    for name in ("dispatcher", "collector"):
        process = psutil.Process(up.facts["pids"][name])
        assert process.cmdline()[0].startswith(f"fleet-{name}")
        process.kill()
        done = await up.result(await up.request(rounds=0))
        assert done["status"] == "COMPLETED"


@pytest.mark.slow
async def test_store_survives_a_restart_and_nothing_is_left_running(tmp_path: Path) -> None:
    """With no setting at all the simulator answers; SIGTERM ends every process; the next start finds the results."""
    first = await start(tmp_path / "data")
    done = await first.result(await first.request(task_id="kept", num_agents=2, rounds=0))
    assert "[simulated]" in done["results"][0]["proposal"]["content"]
    family = [psutil.Process(first.process.pid), *psutil.Process(first.process.pid).children(recursive=True)]
    assert await stop(first) == 0
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=WITHIN_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []

    second = await start(tmp_path / "data")
    assert await second.result("kept") == done
    assert await stop(second) == 0


async def test_a_given_nats_that_does_not_answer_is_said_at_once(tmp_path: Path) -> None:
    """The components would wait for it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleet.cli", "up", "--data-dir", str(tmp_path / "data")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(NATS_URL="nats://127.0.0.1:1"),
    )
    async with asyncio.timeout(90):
        said, _ = await process.communicate()
    assert (process.returncode, b"no NATS server answers" in said) == (3, True)
