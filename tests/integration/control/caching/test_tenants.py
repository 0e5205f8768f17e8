"""Tenants: nobody is answered with another one's result, and nobody's entries displace another's."""

from pathlib import Path

import pytest

from fleet import subjects
from fleet.config import Limits
from fleet.tenants.limits import Tenant
from tests.integration.control.caching.test_answers import ask
from tests.support.fleets.tenants import A, B, Stage, shared

pytestmark = pytest.mark.usefixtures("nats_binary")
BOTH_WAYS = pytest.mark.parametrize(("one", "other"), [(A, B), (B, A)])


async def used(stage: Stage, tenant: str) -> int:
    """Tokens that are counted for a tenant."""
    async with stage.users.connected("operator") as (operator, _):
        last = await operator.jetstream().get_last_msg(subjects.TENANT_TOKENS, f"tenant.{tenant}.tokens.*")
        return int((last.data or b"").split(b'"')[3])


@BOTH_WAYS
async def test_the_same_question_of_another_tenant_runs(tmp_path: Path, one: str, other: str) -> None:
    """Under the same task id, too; each is answered from its own."""
    async with shared(tmp_path) as stage:
        first = await ask(stage[one], "first")
        assert (await ask(stage[other], "first"))["cached_from"] is None
        assert (await ask(stage[other], "second"))["cached_from"] == "first"
        again = await ask(stage[one], "second")
        assert (again["cached_from"], again["tenant"], again["results"]) == ("first", one, first["results"])


@BOTH_WAYS
async def test_a_tenant_that_fills_its_entries_leaves_those_of_others(tmp_path: Path, one: str, other: str) -> None:
    async with shared(tmp_path, room=Limits(cache_entries=2)) as stage:
        await ask(stage[one], "first")
        for number in range(6):
            plain = {"task_description": f"Design {number}", "num_agents": 1, "rounds": 0}
            await ask(stage[other], f"t-{number}", **plain)
        assert (await ask(stage[one], "second"))["cached_from"] == "first"
        async with stage.users.connected("operator") as (operator, _):
            info = await operator.jetstream().stream_info(subjects.CACHE_STREAM)
            assert info.state.messages <= 3


async def test_a_cached_result_is_not_counted_for_its_tenant(tmp_path: Path) -> None:
    """The counter equals what its results tell; whoever has spent its budget is rejected all the same."""
    async with shared(tmp_path, limits={A: Tenant(tokens_per_day=1_000_000)}) as stage:
        first = await ask(stage[A], "first")
        tokens = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
        assert await used(stage, A) == tokens > 0
        for number in range(3):
            assert (await ask(stage[A], f"t-{number}"))["cached_from"] == "first"
        assert await used(stage, A) == tokens
