"""The runner: what is saved is published, also after a crash in between; replicas lose no answer to each other."""

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import pytest

from fleet.control.items import Item, PublishAgain, Reissue
from fleet.control.runner import Runner
from fleet.control.states.store import MemoryStore, Stored
from fleet.control.states.transitions import Transitions
from fleet.deliberation.events import (
    Announce,
    CallAgent,
    Conclude,
    DeadlinePassed,
    Effect,
    Event,
    Reject,
    Requested,
    Responded,
)
from fleet.deliberation.machine import Decision, decide, due
from fleet.deliberation.state import Deliberation
from fleet.errors import EventInFlight, StoreConflict
from fleet.messages import AgentRequested
from fleet.requests.task import Task
from tests.support.agents import answer
from tests.support.runner import Unobserved, make_runner
from tests.support.waiting import WITHIN_S

NOW = 1_767_225_600_000


class Sent:
    """A publisher that remembers; the next `failures` publications are lost, as in a crash."""

    instance = "here"

    def __init__(self) -> None:
        self.batches: list[list[Effect]] = []
        self.failures = 0
        self.unheard = False

    async def is_published(self, state: Deliberation) -> bool:
        if self.unheard:
            raise EventInFlight(state.task_id, "silent")
        return self.conclusions > 0

    async def publish(self, state: Deliberation, effects: Iterable[Effect]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("lost before it was published")
        self.batches.append(list(effects))

    @property
    def calls(self) -> list[AgentRequested]:
        """Of the last batch."""
        return [effect.request for effect in self.batches[-1] if isinstance(effect, CallAgent)]

    @property
    def conclusions(self) -> int:
        return sum(isinstance(effect, Conclude) for effects in self.batches for effect in effects)


class Delivered:
    """A delivery, by hand."""

    def __init__(self, name: str, *, redelivered: bool = False) -> None:
        self.id = name
        self.redelivered = redelivered
        self.received_at = time.monotonic()
        self.settled: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ack(self) -> None:
        self.settled.set_result("acked")

    async def retry_later(self, reason: Exception) -> None:
        self.settled.set_result("retried")


async def nobody(_: str) -> None:
    """No task is known to have been accepted."""


def requested(**task: object) -> Requested:
    return Requested("t-1", Task(task_description="Build it", **task), 7, NOW)  # type: ignore[arg-type]


def responded(call: AgentRequested) -> Responded:
    return Responded(answer(call), NOW + 1000)


async def deliver(runner: Runner, name: str, event: Event, *, redelivered: bool = False) -> str:
    delivery = Delivered(name, redelivered=redelivered)
    runner.submit("t-1", Item(event, delivery))
    return await delivery.settled


async def test_saved_but_not_published_is_published_when_it_comes_again() -> None:
    """A crash between save and publish: the redelivery finds it applied, and publishes what it owed."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    sent.failures = 1
    assert await deliver(runner, "R:7", requested(num_agents=2)) == "retried"
    assert sent.batches == []
    assert await deliver(runner, "R:7", requested(num_agents=2), redelivered=True) == "acked"
    assert [call.agent_id for call in sent.calls] == ["agent-dev-001", "agent-dev-002"]


async def unsaid(runner: Runner, sent: Sent) -> Responded:
    """The answer that led to an end which is on record, and was never published."""
    await deliver(runner, "R:7", requested(num_agents=1))
    (call,) = sent.calls
    sent.failures = 1
    assert await deliver(runner, "A:1", responded(call)) == "retried"
    return responded(call)


@pytest.mark.parametrize("fails", range(4))
async def test_a_lost_publication_of_any_phase_is_repaired(fails: int) -> None:
    """Whichever transition's outbox is lost, its delivery comes again and the deliberation still ends once."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await deliver(runner, "R:7", requested(num_agents=2, rounds=1))
    number = 0
    for phase in range(4):
        first, last = sent.calls
        await deliver(runner, f"A:{number}", responded(first))
        sent.failures = int(phase == fails)
        outcome = await deliver(runner, f"A:{number + 1}", responded(last))
        if phase == fails:
            assert outcome == "retried"
            assert await deliver(runner, f"A:{number + 1}", responded(last), redelivered=True) == "acked"
        number += 2
    assert sent.conclusions == 1


async def test_a_lost_publication_is_repaired_also_after_a_shadow_has_moved_on() -> None:
    """Council and shadows move on without each other; what either still owes is not forgotten for the other."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await deliver(runner, "R:7", dataclasses.replace(requested(num_agents=2), shadows={"DEV": ("candidate",)}))
    first, last, shadow = sent.calls
    await deliver(runner, "A:1", responded(first))
    sent.failures = 1
    assert await deliver(runner, "A:2", responded(last)) == "retried"
    await deliver(runner, "A:3", responded(shadow))
    assert [(call.shadow, call.phase) for call in sent.calls] == [(True, "score")] * 2
    assert await deliver(runner, "A:2", responded(last), redelivered=True) == "acked"
    assert [call.agent_id for call in sent.calls if call.phase == "critique"] == ["agent-dev-001", "agent-dev-002"]


class Refusing(MemoryStore):
    """A store that can be full, or taken by somebody else in between."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: Exception | None = None

    async def save(self, state: Deliberation, revision: int) -> Stored:
        if self.refuses is not None:
            raise self.refuses
        return await super().save(state, revision)


@pytest.mark.parametrize(
    ("who", "obstacle"),
    [("store", ConnectionError("no space left")), ("store", StoreConflict("t-1", 3)), ("sent", True)],
    ids=["full", "taken", "may be on its way"],
)
async def test_an_end_is_repaired_by_one_and_once_nothing_stands_in_its_way(who: str, obstacle: Any) -> None:
    """Otherwise core subscribers would see what the stream refuses, or what another one publishes as well."""
    store, sent = Refusing(), Sent()
    runner = make_runner(store, sent)
    last = await unsaid(runner, sent)
    part, name = (store, "refuses") if who == "store" else (sent, "unheard")
    before = getattr(part, name)
    setattr(part, name, obstacle)
    assert await deliver(runner, "A:1", last, redelivered=True) == "retried"
    assert sent.conclusions == 0
    setattr(part, name, before)
    assert await deliver(runner, "A:1", last, redelivered=True) == "acked"
    assert sent.conclusions == 1


async def test_a_repetition_without_redelivery_publishes_nothing() -> None:
    """Somebody publishes an old response again: not a crash, so nothing is owed."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await deliver(runner, "R:7", requested(num_agents=2))
    calls = sent.calls
    for number, call in enumerate(calls):
        await deliver(runner, f"A:{number}", responded(call))
    batches = len(sent.batches)
    assert await deliver(runner, "A:9", responded(calls[0])) == "acked"
    assert len(sent.batches) == batches


async def test_replicas_fold_each_others_phases() -> None:
    """A replica whose memory of the task is old applies an answer to the phase that the other one has begun."""
    store, sent = MemoryStore(), Sent()
    one, other = make_runner(store, sent), make_runner(store, sent)
    await deliver(one, "R:7", requested(num_agents=2, rounds=0))
    first, second = sent.calls
    await deliver(one, "A:1", responded(first))
    await deliver(other, "A:2", responded(second))
    first, second = sent.calls
    assert first.phase == "score"
    await deliver(one, "A:3", responded(first))
    await deliver(other, "A:4", responded(second))
    stored = await store.load("t-1")
    assert stored is not None
    assert stored.state.status == "COMPLETED"
    assert sent.conclusions == 1


async def test_responses_that_arrive_together_are_folded_in_any_interleaving() -> None:
    """Two replicas at once, all answers of a phase at once: every one counts, and the end comes once."""
    store, sent = MemoryStore(), Sent()
    replicas = [make_runner(store, sent), make_runner(store, sent)]
    await deliver(replicas[0], "R:7", requested(num_agents=16, rounds=1))
    number = 0
    while not sent.conclusions:
        outcomes = []
        for index, call in enumerate(sent.calls):
            number += 1
            outcomes.append(deliver(replicas[index % 2], f"A:{number}", responded(call)))
        assert set(await asyncio.gather(*outcomes)) == {"acked"}
    stored = await store.load("t-1")
    assert stored is not None
    assert stored.state.calls_ended == 64
    assert stored.state.failures == ()


async def test_delivery_that_cannot_be_settled_wedges_nothing() -> None:
    """An acknowledgement that fails leaves the task open for what comes next."""

    class Unsettled(Delivered):
        async def ack(self) -> None:
            self.settled.set_result("lost")
            raise ConnectionError("closed")

    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    broken = Unsettled("R:7")
    runner.submit("t-1", Item(requested(num_agents=1), broken))
    assert await broken.settled == "lost"
    assert await deliver(runner, "A:1", responded(sent.calls[0])) == "acked"
    assert sent.conclusions == 1


async def test_response_to_an_unknown_task_is_let_go() -> None:
    """Its state has expired: nothing to fill, nothing to retry."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await deliver(make_runner(MemoryStore(), sent), "R:7", requested(num_agents=1))
    assert await deliver(runner, "A:1", responded(sent.calls[0])) == "acked"


async def test_a_write_that_nats_does_not_take_shows_until_one_is_taken() -> None:
    """Readiness shows it."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    sent.failures = 1
    await deliver(runner, "R:7", requested(num_agents=2))
    assert runner.write_failing
    await deliver(runner, "R:7", requested(num_agents=2), redelivered=True)
    assert not runner.write_failing


async def test_one_event_that_cannot_be_applied_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they came together: it alone is tried again."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await deliver(runner, "R:7", requested(num_agents=3))
    poison, *good = [responded(call) for call in sent.calls]

    def breaks(state: Deliberation | None, event: Event) -> Decision:
        if event is poison:
            raise ZeroDivisionError
        return decide(state, event)

    monkeypatch.setattr("fleet.control.states.folding.decide", breaks)
    outcomes = await asyncio.gather(
        *(deliver(runner, f"A:{number}", event) for number, event in enumerate([good[0], poison, good[1]]))
    )
    assert outcomes == ["acked", "retried", "acked"]
    assert not runner.write_failing


class Counting(MemoryStore):
    """A store that counts its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.saves = 0
        self.loads = 0

    async def save(self, state: Deliberation, revision: int) -> Stored:
        self.saves += 1
        return await super().save(state, revision)

    async def load(self, task_id: str) -> Stored | None:
        self.loads += 1
        return await super().load(task_id)


async def test_answers_that_come_one_after_the_other_are_one_write() -> None:
    """Those that do not end the phase wait for the one that does; a collector of its own has to look once."""
    store, sent = Counting(), Sent()
    await deliver(make_runner(store, sent), "R:7", requested(num_agents=3))
    assert (store.loads, store.saves) == (0, 1)
    collector, calls = make_runner(store, sent), sent.calls
    deliveries = [Delivered(f"A:{number}") for number in range(3)]
    for call, delivery in zip(calls, deliveries, strict=True):
        collector.submit("t-1", Item(responded(call), delivery))
        await asyncio.sleep(0)
    assert await asyncio.gather(*(delivery.settled for delivery in deliveries)) == ["acked"] * 3
    assert (store.loads, store.saves) == (1, 2)
    assert {call.phase for call in sent.calls} == {"critique"}


async def test_an_answer_does_not_wait_for_others_for_long() -> None:
    """It is saved and acknowledged on its own where the others take their time."""
    store, sent = Counting(), Sent()
    runner = make_runner(store, sent)
    await deliver(runner, "R:7", requested(num_agents=3))
    assert await deliver(runner, "A:1", responded(sent.calls[0])) == "acked"
    assert store.saves == 2


async def test_another_request_with_the_same_id_is_rejected() -> None:
    """The store refuses to record it, nothing is repeated, and its rejection is published before it is acknowledged."""
    store, sent = Counting(), Sent()
    await deliver(make_runner(store, sent), "R:7", requested(num_agents=2))
    other = Requested("t-1", Task(task_description="Something else"), 8, NOW)
    replica = make_runner(store, sent)
    sent.failures = 1
    assert await deliver(replica, "R:8", other) == "retried"
    assert await deliver(replica, "R:8", other, redelivered=True) == "acked"
    _, (rejection,) = sent.batches
    assert isinstance(rejection, Reject)
    assert (rejection.rejected.code, rejection.rejected.stream_sequence) == ("conflict", 8)


async def test_a_conflict_within_one_batch_is_rejected() -> None:
    """Two requests with one id arrive together: the first one is recorded, the other one is rejected."""
    store, sent = Counting(), Sent()
    runner = make_runner(store, sent)
    first, second = Delivered("R:7"), Delivered("R:8")
    runner.submit("t-1", Item(requested(num_agents=2), first))
    runner.submit("t-1", Item(Requested("t-1", Task(task_description="Something else"), 8, NOW), second))
    assert await asyncio.gather(first.settled, second.settled) == ["acked", "acked"]
    effects = [effect for batch in sent.batches for effect in batch]
    assert sum(isinstance(effect, CallAgent) for effect in effects) == 2
    assert [effect.rejected.stream_sequence for effect in effects if isinstance(effect, Reject)] == [8]


async def test_an_acceptance_that_was_lost_is_announced_after_the_end() -> None:
    """The request comes again after its task has ended: that it was accepted is said all the same, its end once."""
    store, sent = MemoryStore(), Sent()
    runner = make_runner(store, sent)
    sent.failures = 1
    assert await deliver(runner, "R:7", requested(num_agents=1)) == "retried"
    stored = await store.load("t-1")
    assert stored is not None
    (call,) = [effect.request for effect in due(stored.state) if isinstance(effect, CallAgent)]
    assert await deliver(runner, "A:1", responded(call)) == "acked"
    assert await deliver(runner, "R:7", requested(num_agents=1), redelivered=True) == "acked"
    assert any(isinstance(effect, Announce) for effect in sent.batches[-1])
    assert sent.conclusions == 1


async def test_who_repairs_an_end_is_on_record_before_it_is_said() -> None:
    """The next one that finds it unsaid asks the right process."""
    store, sent = MemoryStore(), Sent()
    last = await unsaid(make_runner(store, sent), sent)
    other = Sent()
    other.instance = "there"
    assert await deliver(make_runner(store, other), "A:1", last, redelivered=True) == "acked"
    stored = await store.load("t-1")
    assert stored is not None
    assert (stored.state.written_by, other.conclusions) == ("there", 1)


async def test_a_deadline_that_comes_after_the_end_finds_an_end_that_was_never_said() -> None:
    """It would have been taken back; whatever became of the delivery that led to the end, it is said now."""
    store, sent = MemoryStore(), Sent()
    runner = make_runner(store, sent)
    await unsaid(runner, sent)
    assert await deliver(runner, "D:1", DeadlinePassed(NOW + 300_000)) == "acked"
    assert sent.conclusions == 1
    assert await deliver(runner, "D:1", DeadlinePassed(NOW + 300_000), redelivered=True) == "acked"
    assert sent.conclusions == 1


async def test_a_request_that_comes_again_from_a_durable_made_anew_is_known_by_its_sequence() -> None:
    """Its first delivery was saved and not published; this one says that it is the first."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    sent.failures = 1
    assert await deliver(runner, "R:7", requested(num_agents=2)) == "retried"
    assert await deliver(runner, "R:7", requested(num_agents=2)) == "acked"
    assert [call.agent_id for call in sent.calls] == ["agent-dev-001", "agent-dev-002"]


async def test_what_is_owed_is_published_also_where_something_new_came_with_it() -> None:
    """The answer that began a phase comes again with one of that phase, of whose calls all but one were lost."""
    store, sent = MemoryStore(), Sent()
    transitions = Transitions(store, sent, nobody, Unobserved())
    await transitions.apply("t-1", [Item(requested(num_agents=2, rounds=0), Delivered("R:1"))])
    first, second = sent.calls
    await transitions.apply("t-1", [Item(responded(first), Delivered("A:1"))])
    sent.failures = 1
    with pytest.raises(ConnectionError):
        await transitions.apply("t-1", [Item(responded(second), Delivered("A:2"))])
    stored = await store.load("t-1")
    assert stored is not None
    published = [effect.request for effect in due(stored.state) if isinstance(effect, CallAgent)]
    assert len(published) == 2
    batch = [
        Item(responded(second), Delivered("A:2", redelivered=True)),
        Item(responded(published[0]), Delivered("A:3")),
    ]
    await transitions.apply("t-1", batch)
    assert [call.agent_id for call in sent.calls] == [published[1].agent_id]


async def test_a_delivery_that_is_given_up_may_demand_a_repair_of_its_own_task() -> None:
    """Its process waits for the repair while it settles the delivery: the runner must not wait for that in turn."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    last = await unsaid(runner, sent)

    class GivenUp(Delivered):
        async def retry_later(self, reason: Exception) -> None:
            await runner.recover("t-1", PublishAgain())
            self.settled.set_result("given up")

    delivery = GivenUp("A:1", redelivered=True)
    sent.failures = 1
    runner.submit("t-1", Item(last, delivery))
    async with asyncio.timeout(WITHIN_S):
        assert await delivery.settled == "given up"
    assert sent.conclusions == 1
    await runner.drain(10)
    assert not runner.in_work


async def test_a_demand_of_recovery_waits_for_what_is_at_work_on_the_task() -> None:
    """It finds what that has published, so nothing is published twice."""
    sent, go_on = Sent(), asyncio.Event()

    class Slow(MemoryStore):
        async def save(self, state: Deliberation, revision: int) -> Stored:
            await go_on.wait()
            return await super().save(state, revision)

    runner = make_runner(Slow(), sent)
    go_on.set()
    await deliver(runner, "R:7", requested(num_agents=1))
    go_on.clear()
    delivery = Delivered("A:1")
    runner.submit("t-1", Item(responded(sent.calls[0]), delivery))
    demand = asyncio.create_task(runner.recover("t-1", PublishAgain()))
    await asyncio.sleep(0)
    assert not demand.done()
    go_on.set()
    await demand
    assert (await delivery.settled, sent.conclusions) == ("acked", 1)


async def test_a_demand_that_cannot_be_met_raises_why() -> None:
    """Whoever submitted it tries again."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await unsaid(runner, sent)
    sent.failures = 1
    with pytest.raises(ConnectionError):
        await runner.recover("t-1", PublishAgain())
    await runner.recover("t-1", PublishAgain())
    assert sent.conclusions == 1


async def test_what_a_lost_stream_held_is_published_again_for_a_running_task_only() -> None:
    """Its open calls, as a second attempt; nothing else, and nothing of a task that has ended."""
    sent = Sent()
    runner = make_runner(MemoryStore(), sent)
    await deliver(runner, "R:7", requested(num_agents=2))
    first, second = sent.calls
    await deliver(runner, "A:1", responded(first))
    await runner.recover("t-1", Reissue((CallAgent,)))
    (effect,) = sent.batches[-1]
    assert isinstance(effect, CallAgent)
    assert (effect.request.agent_id, effect.request.attempt) == (second.agent_id, 2)
    await deliver(runner, "D:1", DeadlinePassed(NOW + 3_600_000))
    batches = len(sent.batches)
    await runner.recover("t-1", Reissue((CallAgent,)))
    assert len(sent.batches) == batches
