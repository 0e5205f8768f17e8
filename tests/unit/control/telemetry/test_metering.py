"""What a change of state counts."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from fleet.config import Settings, Workers, load
from fleet.control.items import Item
from fleet.control.lifecycle import Lifecycle
from fleet.control.scaling.expected_work import ExpectedWork, calls_at_once, calls_left
from fleet.control.states.saves import AppliedEvent
from fleet.control.states.store import MemoryStore
from fleet.control.telemetry.metering import Meter, kind_of_letter, overhead_ms
from fleet.control.telemetry.observer import ComponentObserver
from fleet.deliberation.events import CancelAsked, DeadlinePassed, Event, Requested, Responded, ResultMissing
from fleet.deliberation.machine import decide
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, AgentResponse, AttemptTally, CallFacts, Judge
from fleet.observability.metrics import Metrics
from fleet.requests.task import Task
from fleet.tenants.names import key_of
from tests.support.agents import answer, failure
from tests.support.council import NOW, begin, calls, respond, run_to_end
from tests.support.runner import make_runner
from tests.unit.control.test_runner import Delivered, Sent, deliver, requested, responded

SETTINGS = load({"VLLM_URL": "http://gpu:8000", "VLLM_MODEL": "m"})


def total(registries: list[CollectorRegistry], name: str, **labels: str) -> float:
    """The sum over processes, and over all labels that are not named."""
    return sum(
        sample.value
        for registry in registries
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def meter() -> Meter:
    return Meter(SETTINGS, Metrics())


async def test_replicas_count_each_fact_once_whatever_comes_again() -> None:
    """Two processes get every delivery, each of them twice: the sum is as if one had got each once."""
    store, sent, meters = MemoryStore(), Sent(), [meter(), meter()]
    runners = [make_runner(store, sent, observer=ComponentObserver(each, None)) for each in meters]
    for name in ("R:7", "R:7"):
        for runner in runners:
            await deliver(runner, name, requested(num_agents=2, rounds=0), redelivered=True)
    asked = 0
    while (await store.load("t-1")).state.result is None:  # type: ignore[union-attr]
        new = sent.calls[-2:]
        asked += len(new)
        for number, call in enumerate(new):
            for runner in (*runners, *runners):
                await deliver(runner, f"A:{asked}:{number}", responded(call), redelivered=True)
    registries = [each.metrics.registry for each in meters]
    assert total(registries, "fleet_deliberations_accepted_total") == 1
    assert total(registries, "fleet_calls_expected_total") == 4
    assert total(registries, "fleet_deliberations_total", status="COMPLETED", role="DEV", degraded="false") == 1
    assert total(registries, "fleet_calls_total", outcome="completed") == asked == 4
    assert total(registries, "fleet_tokens_total", kind="prompt") == 5 * asked
    assert total(registries, "fleet_phase_seconds_count") == 2


def told(response: AgentResponse) -> AgentResponse:
    """With the facts that a worker adds."""
    tallies = (
        AttemptTally(endpoint="http://gpu:8000", model="m", outcome="ServerError", count=2),
        AttemptTally(
            endpoint="http://gpu:8000",
            model="m",
            outcome="completed",
            usage=response.usage,
            reasoning_tokens=2,
            cost=0.5,
        ),
    )
    facts = CallFacts(
        delivery=3, endpoint="http://gpu:8000", model="m", first_token_ms=40, hedges=1, hedge_won=True, attempts=tallies
    )
    return response.change(facts=facts)


async def test_facts_of_a_call_are_counted() -> None:
    """Attempts, hedges, deliveries, the first token, by the names of the settings."""
    counted, sent = meter(), Sent()
    runner = make_runner(MemoryStore(), sent, observer=ComponentObserver(counted, None))
    await deliver(runner, "R:7", requested(num_agents=1))
    event = responded(sent.calls[0])
    await deliver(runner, "A:1", type(event)(told(event.response), event.at_ms))
    registries = [counted.metrics.registry]
    endpoint = "http://gpu:8000"
    assert total(registries, "fleet_attempts_total", endpoint=endpoint, outcome="ServerError") == 2
    assert total(registries, "fleet_attempts_total", endpoint=endpoint, outcome="completed") == 1
    assert total(registries, "fleet_hedges_total", won="true") == 1
    assert total(registries, "fleet_redelivered_total", consumer="workers") == 2
    assert total(registries, "fleet_time_to_first_token_seconds_sum", model="m", endpoint=endpoint) == 0.04
    assert total(registries, "fleet_calls_total", phase="propose", model="m", endpoint=endpoint) == 1
    assert total(registries, "fleet_cost_total", model="m", tenant="default") == 0.5
    assert total(registries, "fleet_tokens_total", kind="reasoning") == 2


async def test_what_a_tenant_does_is_counted_as_its_own() -> None:
    """Its deliberations, tokens and costs."""
    counted, sent = meter(), Sent()
    runner = make_runner(MemoryStore(), sent, observer=ComponentObserver(counted, None))
    key = key_of("team-a", "t-1")

    async def take(name: str, event: Event) -> None:
        delivery = Delivered(name)
        runner.submit(key, Item(event, delivery))
        await delivery.settled

    await take("R:7", replace(requested(num_agents=1), task_id=key))
    event = responded(sent.calls[0])
    await take("A:1", Responded(told(event.response), event.at_ms))
    registries = [counted.metrics.registry]
    names = ("deliberations_accepted_total", "deliberations_total", "tokens_total", "cost_total")
    for name in (f"fleet_{each}" for each in names):
        assert total(registries, name, tenant="team-a") > 0
        assert total(registries, name, tenant="default") == 0


async def test_calls_that_the_deadline_ends_are_counted_as_such() -> None:
    """They met no answer, so no model and no endpoint is known."""
    counted, sent = meter(), Sent()
    runner = make_runner(MemoryStore(), sent, observer=ComponentObserver(counted, None))
    await deliver(runner, "R:7", requested(num_agents=3))
    await deliver(runner, "A:1", responded(sent.calls[0]))
    await deliver(runner, "D:1", DeadlinePassed(NOW + 300_000))
    registries = [counted.metrics.registry]
    assert total(registries, "fleet_calls_total", phase="propose", outcome="DeadlineExceeded", endpoint="none") == 2
    assert total(registries, "fleet_calls_total") == 3
    assert total(registries, "fleet_deliberations_total", status="COMPLETED", degraded="true") == 1


def test_overhead_is_what_no_call_explains() -> None:
    """Each phase is as long as its longest call; one that was cut off has waited for its calls."""
    ended, _ = run_to_end(begin(num_agents=2, rounds=0), ms_per_call=100)
    assert ended.result is not None
    assert len(ended.phases) == 2
    assert overhead_ms(ended) == ended.result.duration_ms - 2 * 10  # every call took 10 ms
    decision = begin(num_agents=2, rounds=0)
    cut = decide(decision.state, CancelAsked("enough", NOW + 5000)).state
    assert overhead_ms(cut) == 0


def test_reasons_of_dead_letters_are_few() -> None:
    """Whatever the text says."""
    reasons = {
        "$.num_agents: expected an integer": "rejected",
        "exhausted: delivered 50 times without success": "exhausted",
        "failed 6 times, last: ValueError()": "failed",
        "a copy of a stored message, which nobody published": "copy",
        "the worker failed twice, the last time with KeyError": "worker",
        "undecodable: $.phase: must be given, and is missing": "undecodable",
    }
    assert {reason: kind_of_letter(reason) for reason in reasons} == reasons


def left(state: Deliberation) -> float:
    return sum(calls_left(state).values())


def test_a_request_that_waits_for_anothers_result_has_no_calls_left() -> None:
    """It may need none: scaling by what is expected would count those of the other one twice."""
    task = Task(task_description="Build it", cache="use")
    waits = decide(None, Requested("t-1", task, 7, NOW, cache_key="a-key")).state
    assert left(waits) == 0
    assert left(decide(waits, ResultMissing(NOW)).state) == left(begin(num_agents=3).state) > 0


@pytest.mark.parametrize("cache", ["use", "refresh"])
async def test_calls_of_a_request_that_waited_in_vain_are_expected_once_it_begins(cache: str) -> None:
    """And not before: scaling by what arrives must not miss them."""
    counted, sent = meter(), Sent()
    runner = make_runner(MemoryStore(), sent, observer=ComponentObserver(counted, None))
    await deliver(runner, "R:7", replace(requested(num_agents=2, rounds=0, cache=cache), cache_key="k"))
    registries = [counted.metrics.registry]
    assert total(registries, "fleet_calls_expected_total") == 0
    for name in ("L:1", "L:2"):
        await deliver(runner, name, ResultMissing(NOW))
    assert total(registries, "fleet_calls_expected_total") == 4


def test_calls_that_are_left_fall_to_none() -> None:
    """From what a deliberation costs in calls, one by one, to nothing at its end."""
    decision = begin(num_agents=3, rounds=2, early_stop=False)
    assert left(decision.state) == 3 * (2 + 2 * 2)
    state = decision.state
    waiting = calls(decision)
    seen = [left(state)]
    while not state.ended:
        call = waiting.pop(0)
        decision = respond(state, answer(call))
        state = decision.state
        waiting += calls(decision)
        seen.append(left(state))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] <= 1


@pytest.mark.parametrize(("selection", "judging"), [("score", 3 * 2), ("vote", 0)])
def test_calls_of_judges_are_expected(selection: str, judging: int) -> None:
    """Two of each proposal, all of them together with the council's own; none where nothing is scored."""
    judges = [Judge(name=name, kind="classify") for name in ("first", "second")]
    state = begin(judges=judges, num_agents=3, rounds=0, selection=selection).state
    assert (left(state), calls_at_once(state)) == (3 + 3 + judging, 3 + judging)


def test_tokens_ahead_follow_what_calls_took() -> None:
    """A task that only another process knows counts as an average one; one that has ended counts no more."""
    ahead, state = ExpectedWork(), begin(num_agents=2, rounds=0).state
    ahead.note(state)
    assert ahead.tokens({"t-1"}) == {}
    ahead.learn("propose", "m", 100)
    ahead.learn("score", "judge", 10)
    assert ahead.tokens({"t-1"}) == {"m": 200.0, "judge": 20.0}
    assert ahead.tokens({"t-1", "t-2"}) == {"m": 400.0, "judge": 40.0}
    assert sum(ahead.tokens(()).values()) == 0


@pytest.mark.parametrize(
    ("name", "settings", "notes"),
    [
        ("collector", Settings(health_port=0), True),
        ("collector", Settings(workers=Workers(min=0, max=2)), True),
        ("collector", Settings(), False),
        ("dispatcher", Settings(health_port=0, workers=Workers(min=0, max=2)), False),
    ],
)
def test_only_who_forgets_what_has_ended_notes_what_is_coming(name: str, settings: Settings, notes: bool) -> None:
    """A dispatcher accepts tasks and sees no end of them: it would keep them all."""
    metered, state = Lifecycle(settings, name, ()).meter, begin(num_agents=2).state
    metered.saved(None, state, [])
    kept = metered.ahead is not None and not metered.ahead.unknown([state.task_id])
    assert kept is notes


def test_a_failed_call_is_counted_by_its_error() -> None:
    """An error type that this version does not know is `other`."""
    counted = meter()

    def fails(call: AgentRequested) -> AgentResponse:
        strange = failure(call).change(error_type="FromTheFuture")
        return strange if call.agent_id.endswith("1") else failure(call)

    decision = begin(num_agents=2)
    state = decision.state
    for call in calls(decision):
        event = Responded(fails(call), NOW)
        after = decide(state, event).state
        counted.saved(state, after, [AppliedEvent(event, state, after)])
        state = after
    registries = [counted.metrics.registry]
    assert total(registries, "fleet_calls_total", outcome="other") == 1
    assert total(registries, "fleet_calls_total", outcome="ServerError") == 1
    assert total(registries, "fleet_deliberations_total", status="FAILED") == 1
