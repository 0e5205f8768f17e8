"""A tenant that cancels whatever it asks for does not fill the bucket of states."""

import asyncio
from pathlib import Path

import pytest

from fleet import subjects
from fleet.config import Limits
from fleet.control.recovery import forgotten
from fleet.control.states import cancelled
from fleet.tenants.names import key_of
from tests.support.fleets.tenants import A, B, Stage, shared
from tests.support.workers.fake_control_plane import SLOW

pytestmark = pytest.mark.usefixtures("nats_binary")

KEPT = 8
"""Instead of as many as it is; the attack has ten times as many."""


async def held(stage: Stage, tenant: str) -> set[str]:
    """Ids of a tenant's tasks that have a state."""
    async with stage.users.connected("operator") as (operator, _):
        bucket = await operator.jetstream().key_value(subjects.BUCKET)
        return {key.rpartition(".")[2] for key in await bucket.keys() if key == key_of(tenant, key.rpartition(".")[2])}


@pytest.mark.slow
async def test_a_tenant_cannot_fill_the_bucket_of_states_with_what_it_cancels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait for room cost nothing, and may be long; many are cancelled at once, by both instances. The
    last ones are known, and other tenants keep theirs."""
    monkeypatch.setattr(cancelled, "KEPT", KEPT)
    async with shared(tmp_path, SLOW, room=Limits(max_in_flight=1)) as stage:
        await stage[B].request(task_id="runs", num_agents=1)
        await stage[B].inbox.next(subjects.ACCEPTED, task_id="runs")
        await stage[B].request(task_id="kept", num_agents=1)
        await stage[B].ask(subjects.CANCEL, {"task_id": "kept"})
        ids = [f"t{number}" for number in range(10 * KEPT)]
        for task_id in ids:
            await stage[A].request(task_id=task_id, task_description="x" * 60_000, num_agents=1)
        replies = await asyncio.gather(*(stage[A].ask(subjects.CANCEL, {"task_id": each}) for each in ids))
        assert {reply["status"] for _, reply in replies} == {"CANCELLED"}
        for task_id in ids:
            await stage[A].inbox.next(subjects.CANCELLED, task_id=task_id)
        assert len(await held(stage, A)) == KEPT
        assert await held(stage, B) == {"runs", "kept"}
        await stage[A].request(task_id="last", num_agents=1)
        await stage[A].ask(subjects.CANCEL, {"task_id": "last"})
        code, reply = await stage[A].ask(subjects.CANCEL, {"task_id": "last"})
        assert (code, reply["status"]) == ("409", "CANCELLED")
        now = await held(stage, A)
        assert (len(now), "last" in now) == (KEPT, True)
        (gone, *_) = set(ids) - now
        assert (await stage[A].ask(subjects.RESULT, {"task_id": gone}))[0] == "404"


async def test_what_was_cancelled_and_forgotten_while_it_waited_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dispatcher holds such requests until there is room: then it would take them for new ones."""
    monkeypatch.setattr(cancelled, "KEPT", 1)
    monkeypatch.setattr(forgotten, "FRESH_S", 0.0)
    async with shared(tmp_path, SLOW, room=Limits(max_in_flight=1)) as stage:
        await stage[B].request(task_id="runs", num_agents=1)
        await stage[B].inbox.next(subjects.ACCEPTED, task_id="runs")
        ids = [f"t{number}" for number in range(8)]
        for task_id in (*ids, "last"):
            await stage[A].request(task_id=task_id, num_agents=1)
        for task_id in ids:
            await stage[A].ask(subjects.CANCEL, {"task_id": task_id})
        assert await held(stage, A) == {ids[-1]}
        await stage[B].ask(subjects.CANCEL, {"task_id": "runs"})
        await stage[A].inbox.next(subjects.ACCEPTED, task_id="last")
        assert all(stage[A].inbox.of(each) == [subjects.ACCEPTED, subjects.CANCELLED] for each in ids)
