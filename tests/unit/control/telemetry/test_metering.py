"""What a change of state counts."""

from prometheus_client import CollectorRegistry

from fleet.config import load
from fleet.control.expected_work import ExpectedWork, calls_left
from fleet.control.runner import Runner
from fleet.control.states.saves import AppliedEvent
from fleet.control.states.store import MemoryStore
from fleet.control.telemetry.metering import Meter, kind_of_letter, overhead_ms
from fleet.deliberation.events import CancelAsked, DeadlinePassed, Responded
from fleet.deliberation.machine import decide
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, AgentResponse, AttemptTally, CallFacts
from fleet.observability.metrics import Metrics
from tests.support.agents import answer, failure
from tests.support.council import NOW, begin, calls, respond, run_to_end
from tests.unit.control.test_runner import Sent, deliver, requested, responded

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
    runners = [Runner(store, sent, saved=each.saved) for each in meters]
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
    runner = Runner(MemoryStore(), sent, saved=counted.saved)
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


async def test_calls_that_the_deadline_ends_are_counted_as_such() -> None:
    """They met no answer, so no model and no endpoint is known."""
    counted, sent = meter(), Sent()
    runner = Runner(MemoryStore(), sent, saved=counted.saved)
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
        "ValidationError: Object missing required field": "undecodable",
    }
    assert {reason: kind_of_letter(reason) for reason in reasons} == reasons


def left(state: Deliberation) -> int:
    return sum(calls_left(state))


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
