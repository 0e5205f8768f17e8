"""What tenants use is counted once, and what their settings do not allow is rejected."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fleet import subjects
from fleet.client.session import session
from fleet.client.tenants import uses
from fleet.clock import now_ms
from fleet.config import load
from fleet.control import dispatcher, runner
from fleet.control.publishing import outbox
from fleet.control.publishing.token_counters import TokenCounters
from fleet.control.states import transitions
from fleet.jetstream import topology
from fleet.messages import DeliberationCancelled
from fleet.messages.usage import TotalUsage
from fleet.tenants.limits import Tenant
from fleet.tenants.names import requests_of
from fleet.times import rfc3339
from tests.support.fleets.tenants import A, B, Stage, shared
from tests.support.nats.permitted import TENANTS, permitted, settle
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")

POINTS = ("runner.saved", "outbox.stopped", "outbox.counted", "outbox.concluded", "runner.published")


async def used(stage: Stage) -> dict[str, int | None]:
    async with session(load({"NATS_URL": stage.users.url("viewer")})) as fleet:
        return {each.tenant: each.used_today for each in await uses(fleet)}


def tokens(result: dict[str, Any]) -> int:
    usage = result["usage"]
    return int(sum(usage[name] or 0 for name in ("prompt_tokens", "completion_tokens", "estimated_tokens")))


async def test_each_deliberation_is_counted_once_wherever_its_end_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each point of an end, twice: counters equal the sum of `usage` over all results, exactly."""
    broken: list[str] = []

    def breaks_off(point: str) -> None:
        if point in POINTS and broken.count(point) < 2:
            broken.append(point)
            raise ConnectionError(point)

    async with shared(tmp_path) as stage:
        for module in (runner, outbox, transitions):
            monkeypatch.setattr(module, "reach", breaks_off)
        expected = dict.fromkeys((A, B), 0)
        for number in range(5):
            for tenant in (A, B):
                await stage[tenant].request(task_id=f"t{number}", num_agents=2, rounds=0)
        for number in range(5):
            for tenant in (A, B):
                done = await stage[tenant].inbox.next(subjects.COMPLETED, task_id=f"t{number}")
                expected[tenant] += tokens(done)
        assert set(broken) == set(POINTS)
        assert min(expected.values()) > 0
        monkeypatch.undo()
        assert await used(stage) == {"default": 0, **expected}


async def test_a_spent_budget_rejects_and_what_runs_finishes(tmp_path: Path) -> None:
    """By an event and by the service; it is nothing that an operator has to look at, and nobody else's."""
    async with shared(tmp_path, limits={A: Tenant(tokens_per_day=1)}) as stage:
        _, first = await stage[A].ask(subjects.ASK, {"task_description": "Design it", "num_agents": 1})
        assert first["status"] == "COMPLETED"
        code, refused = await spent(stage)
        assert (code, refused["code"], refused["path"], refused["tenant"]) == ("400", "budget", "$", A)
        await stage[A].request(task_id="late")
        assert (await stage[A].inbox.next(subjects.REJECTED, task_id="late"))["code"] == "budget"
        _, other = await stage[B].ask(subjects.ASK, {"task_description": "Design it", "num_agents": 1})
        assert other["status"] == "COMPLETED"
        async with stage.users.connected("operator") as (operator, _):
            assert (await operator.jetstream().stream_info(subjects.DEAD_LETTERS)).state.messages == 0


@some_of(
    1,
    ("models", "options", "path"),
    [
        (("fast",), {"models": ["big"]}, "$.options.models"),
        (("fast",), {"models": ["fast", "big"]}, "$.options.models"),
        (("fast",), {}, "$.role"),
        (("simulated",), {"models": ["simulated"]}, None),
        (("simulated",), {"models": ["simulated"], "selection": "architect"}, "$.options.selection"),
        (None, {}, None),
    ],
)
async def test_a_model_that_a_tenant_may_not_use_is_forbidden(
    tmp_path: Path, models: tuple[str, ...] | None, options: dict[str, Any], path: str | None
) -> None:
    """One that the request names, or its role; a role that names none may come to any."""
    async with shared(tmp_path, limits={A: Tenant(models=models)}) as stage:
        body = {"task_description": "Design it", "num_agents": 2, "rounds": 0, "options": options}
        code, reply = await stage[A].ask(subjects.ASK, body)
        if path is None:
            assert (code, reply["status"]) == (None, "COMPLETED")
        else:
            assert (code, reply["code"], reply["path"]) == ("400", "forbidden", path)
            assert path in reply["error"]


async def test_a_priority_that_a_tenant_may_not_use_is_forbidden(tmp_path: Path) -> None:
    async with shared(tmp_path, limits={A: Tenant(max_priority="normal")}) as stage:
        body = {"task_description": "Design it", "num_agents": 1, "priority": "high"}
        code, reply = await stage[A].ask(subjects.ASK, body)
        assert (code, reply["code"], reply["path"]) == ("400", "forbidden", "$.priority")
        code, reply = await stage[B].ask(subjects.ASK, body)
        assert (code, reply["status"], reply["task"]["priority"]) == (None, "COMPLETED", "high")


async def test_a_budget_that_is_spent_holds_for_requests_that_wait_for_room(tmp_path: Path) -> None:
    """They were taken while it was not spent. What ran finishes, and is all that was used."""
    limits = {A: Tenant(tokens_per_day=1, max_in_flight=1)}
    async with shared(tmp_path, SimulatorConfig(latency_ms=1_500), limits=limits) as stage:
        for number in range(8):
            await stage[A].request(task_id=f"t{number}", num_agents=1)
        for number in range(1, 8):
            rejected = await stage[A].inbox.next(subjects.REJECTED, task_id=f"t{number}")
            assert rejected["code"] == "budget"
        done = await stage[A].inbox.next(subjects.COMPLETED, task_id="t0")
        assert await used(stage) == {"default": 0, A: tokens(done), B: 0}


async def test_a_request_that_was_rejected_is_not_begun_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rejection is published, and the dispatcher fails before it is taken off its stream."""
    broken: list[str] = []

    def breaks_off(point: str) -> None:
        if point == "request.rejected" and not broken:
            broken.append(point)
            raise ConnectionError(point)

    async with shared(tmp_path, limits={A: Tenant(models=("other",))}) as stage:
        monkeypatch.setattr(dispatcher, "reach", breaks_off)
        await stage[A].request(task_id="forbidden", options={"models": ["simulated"]})
        async with stage.users.connected("operator") as (operator, _), asyncio.timeout(WITHIN_S):
            js = operator.jetstream()
            while not broken or (await js.stream_info(requests_of(A))).state.messages:
                await settle(operator)
        code, reply = await stage[A].ask(subjects.RESULT, {"task_id": "forbidden"})
        assert (code, reply["status"]) == ("404", "UNKNOWN")
        assert set(stage[A].inbox.of("forbidden")) == {subjects.REJECTED}


async def test_the_first_answer_stands_after_the_budget_is_spent(tmp_path: Path) -> None:
    """Who asks again under the same id, as after a lost connection, gets it; another request is a conflict."""
    async with shared(tmp_path, limits={A: Tenant(tokens_per_day=1)}) as stage:
        body = {"task_id": "one", "task_description": "Design it", "num_agents": 1}
        _, first = await stage[A].ask(subjects.ASK, body)
        await spent(stage)
        assert await stage[A].ask(subjects.ASK, body) == (None, first)
        code, reply = await stage[A].ask(subjects.ASK, {**body, "task_description": "Another"})
        assert (code, reply["code"]) == ("409", "conflict")


async def spent(stage: Stage) -> tuple[str, dict[str, Any]]:
    """The first answer to a request that is rejected: what was used is known for a second."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            code, refused = await stage[A].ask(subjects.ASK, {"task_description": "More", "num_agents": 1})
            if code is not None:
                return code, refused


async def test_a_deliberation_is_counted_once_over_a_restart_of_nats(tmp_path: Path) -> None:
    """It was counted and not published when the server died, and another one was counted after it."""
    for _ in range(2):
        async with permitted(tmp_path, permissions=TENANTS) as users, users.connected("control") as (nc, _):
            settings = structs.replace(load({"NATS_URL": users.url("control")}), tenants={A: Tenant()})
            await topology.declare(nc.jetstream(), settings)
            counters = TokenCounters(nc.jetstream())
            for task_id in ("first", "second"):
                await counters.count(cancelled(task_id, TotalUsage(prompt_tokens=7)), "run")
            assert await counters.used_today(A) == 14


def cancelled(task_id: str, usage: TotalUsage) -> DeliberationCancelled:
    at = rfc3339(now_ms())
    return DeliberationCancelled(task_id=task_id, tenant=A, reason="x", duration_ms=1, completed_at=at, usage=usage)
