"""What is lost, expires, or is taken by another question costs a run, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.config import Limits
from fleet.deliberation import waiting
from fleet.jetstream.lifetimes import HOUR_S
from tests.integration.control.caching.test_answers import Council, ask, question
from tests.integration.control.caching.test_stampede import Silent
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.nats import servers
from tests.support.waiting import until, until_stored

pytestmark = pytest.mark.usefixtures("nats_binary")


async def test_a_lost_bucket_is_declared_again(nats_url: str) -> None:
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        js = fleet.nc.jetstream()
        await js.delete_stream(subjects.CACHE_STREAM)
        assert (await ask(fleet, "second"))["cached_from"] is None
        assert (await ask(fleet, "third"))["cached_from"] == "second"
        assert (await js.stream_info(subjects.CACHE_STREAM)).state.messages == 1


async def test_a_purged_bucket_and_a_deleted_entry_cost_a_run(nats_url: str) -> None:
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        js = fleet.nc.jetstream()
        await js.purge_stream(subjects.CACHE_STREAM)
        await ask(fleet, "second")
        bucket = await js.key_value(subjects.CACHE)
        (slot,) = await bucket.keys()
        await bucket.delete(slot)
        await ask(fleet, "third")
        await bucket.put(slot, b"\xff no entry")
        await ask(fleet, "fourth")
        assert council.tasks == ["first", "second", "third", "fourth"]
        assert (await ask(fleet, "fifth"))["cached_from"] == "fourth"


async def test_an_old_entry_that_comes_back_is_not_believed(nats_url: str) -> None:
    """It may name a task of another question by now, or one that was asked again."""
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        js = fleet.nc.jetstream()
        bucket, states = await js.key_value(subjects.CACHE), await js.key_value(subjects.BUCKET)
        (slot,) = await bucket.keys()
        await states.delete("first")
        await ask(fleet, "first", task_description="Design that")
        assert (await ask(fleet, "second"))["cached_from"] is None
        restored = (await bucket.get(slot)).value
        await states.delete("second")
        await ask(fleet, "second", "refresh")
        await bucket.put(slot, restored or b"")
        assert (await ask(fleet, "third"))["cached_from"] is None


async def test_entries_expire(nats_url: str) -> None:
    """After `limits.cache_hours`."""
    council = Council()
    async with running(nats_url, council, Limits(cache_hours=1 / HOUR_S)) as fleet:
        await ask(fleet, "first")
        await until_stored(fleet.nc.jetstream(), subjects.CACHE_STREAM, lambda count: count == 0)
        assert (await ask(fleet, "second"))["cached_from"] is None


async def test_there_are_no_more_entries_than_slots(nats_url: str) -> None:
    """Another question takes the slot over."""
    council = Council()
    async with running(nats_url, council, Limits(cache_entries=1)) as fleet:
        for number in range(3):
            await ask(fleet, f"t-{number}", task_description=f"Design {number}")
        js = fleet.nc.jetstream()
        assert (await js.stream_info(subjects.CACHE_STREAM)).state.messages == 1
        assert (await ask(fleet, "newest", task_description="Design 2"))["cached_from"] == "t-2"
        assert (await ask(fleet, "oldest", task_description="Design 0"))["cached_from"] is None


async def test_a_result_whose_state_is_gone_runs_again(nats_url: str) -> None:
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        await (await fleet.nc.jetstream().key_value(subjects.BUCKET)).delete("first")
        assert (await ask(fleet, "second"))["cached_from"] is None


@pytest.mark.slow
async def test_a_long_result_is_read_by_reference_and_run_again_once_that_is_gone(tmp_path: Path) -> None:
    """Each task that it answers stores what it refers to under its own name."""
    text = "A long text. " * 60_000

    class Long(Council):
        def __call__(self, call: Any) -> Any:
            self.calls.append(call)
            return agents.answer(call, text=f"{text}{call.agent_id}")

    council = Long()
    plain: dict[str, Any] = {"rounds": 0, "options": {"selection": "checks"}}
    async with servers.one(tmp_path / "nats") as server, running(server.url, council) as fleet:
        for task_id in ("first", "second"):
            await ask(fleet, task_id, **plain)
        second = await fleet.inbox.next(subjects.COMPLETED, task_id="second")
        assert second["cached_from"] == "first"
        refs = [ref for each in second["results"] if (ref := each["proposal"]["content_ref"])]
        assert refs
        assert all(ref["name"].startswith("tasks/second/") for ref in refs)
        await fleet.nc.jetstream().purge_stream(subjects.TEXTS_STREAM)
        await ask(fleet, "third", **plain)
        assert council.tasks == ["first", "third"]


async def test_a_lost_control_stream_is_made_good_by_timers(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to wake who waits is gone with it."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_MS", 2_000)
    council = Silent()
    async with running(nats_url, council) as fleet:
        await fleet.request(**question("first"))
        await until(lambda: council.calls)
        await fleet.request(**question("second"))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="second")
        js = fleet.nc.jetstream()
        await js.delete_stream(subjects.DELIBERATION_CONTROL)
        for call in council.calls:
            await agents.publish(js, agents.answer(call))
        monkeypatch.setattr(Silent, "__call__", Council.__call__)
        assert (await fleet.inbox.next(subjects.COMPLETED, task_id="second"))["cached_from"] == "first"


async def test_whoever_waits_looks_again_by_its_own_timer(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells it of an end where the state of the one that ran is gone: it runs itself."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_MS", 1_000)
    council = Silent()
    async with running(nats_url, council) as fleet:
        await fleet.request(**question("first", constraints={"timeout_seconds": 3600}))
        await until(lambda: council.calls)
        await fleet.request(**question("second"))
        states = await fleet.nc.jetstream().key_value(subjects.BUCKET)

        async def is_followed() -> bool:
            return b'"followers":["second"]' in ((await states.get("first")).value or b"")

        await until(is_followed)
        await states.delete("first")
        assert (await fleet.inbox.next(subjects.COMPLETED, task_id="second"))["cached_from"] is None
