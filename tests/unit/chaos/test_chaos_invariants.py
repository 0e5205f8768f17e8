"""Each invariant of `fleet chaos` can fail: a history that breaks it is told from one that does not."""

from typing import Any

import pytest
from msgspec.structs import replace

from fleet.chaos.counters import Fact, Life, differences, read, series
from fleet.chaos.history import Backlog, Event, History, InjectedFault, Memory, ModelCall, of_its_own
from fleet.chaos.invariants import judge
from fleet.chaos.load import Kind, Request, Submission
from fleet.chaos.recovery import recoveries, repeated
from fleet.observability.metrics import Metrics
from workers.simulator.chat import digest_of

TEXT = "Use a token bucket."


def sent(sequence: int | None, task_id: str | None = None, kind: Kind = "good", body: bytes = b"{}") -> Submission:
    request = Request(number=sequence or 0, at_s=0.0, kind=kind, body=body, task_id=task_id)
    return Submission(request=request, at=0.0, sequence=sequence)


def event(sequence: int, name: str, task_id: str, **body: Any) -> Event:
    return Event(sequence=sequence, at=float(sequence), subject=f"deliberation.{name}", task_id=task_id, body=body)


def accepted(sequence: int, task_id: str, request: int) -> Event:
    return event(sequence, "accepted", task_id, stream_sequence=request)


def result(*agents: str, calls: int = 1, **more: Any) -> dict[str, Any]:
    entries = [
        {"agent_id": agent, "reviews": [], "proposal": {"content": TEXT, "content_ref": None}} for agent in agents
    ]
    return {
        "status": "COMPLETED",
        "results": entries,
        "comparisons": [],
        "usage": {"calls": calls},
        "total_agents": len(agents),
        "rounds_run": 0,
        **more,
    }


def review(reviewer: str, phase: str = "score") -> dict[str, Any]:
    return {"reviewer_id": reviewer, "phase": phase, "round": 0}


def history(body: dict[str, Any] | None = None, **changes: Any) -> History:
    """One request, asked as number 1, that ended well."""
    body = result("a", "b") if body is None else body
    good = History(
        sent=(sent(1, "t-1"),),
        events=(accepted(1, "t-1", 1), event(2, "completed", "t-1", **body)),
        live=(("deliberation.completed", "t-1"),),
        values={"t-1": {"status": "COMPLETED", "result": body, "task": {"rounds": 0}}},
        waiting={"AGENT_REQUESTS": 0},
        final_backlogs=(Backlog(at=9.0, consumer="workers", pending=0, unacknowledged=0, floor=1, last=1),),
        calls=(ModelCall(request_id="t-1.0.propose.a.1", started=1.0, ended=2.0, outcome="completed"),),
        open_calls=0,
    )
    said = tuple(replace(call, digest=digest_of(TEXT)) for call in good.calls or ())
    return replace(good, **{"calls": said, **changes})


def broken(found: History) -> set[str]:
    return {violation.invariant for violation in judge(found)}


def test_good_history_holds() -> None:
    """Nothing is complained about for nothing."""
    assert judge(history()) == ()


def test_lost_end_is_seen() -> None:
    """Accepted, and never ended."""
    found = history(events=(accepted(1, "t-1", 1),))
    assert "one terminal event" in broken(found)


def test_second_end_is_seen() -> None:
    """Two terminal events in the stream, of whatever kind."""
    good = history()
    assert "one terminal event" in broken(replace(good, events=(*good.events, event(3, "cancelled", "t-1"))))


def test_end_without_acceptance_is_seen() -> None:
    """An end of something that nobody accepted."""
    good = history()
    assert "one terminal event" in broken(replace(good, events=(*good.events, event(3, "failed", "t-9"))))


def test_second_live_event_is_seen() -> None:
    """The stream has one, but a core subscriber saw two."""
    seen = ("deliberation.completed", "t-1")
    assert broken(history(live=(seen, seen))) == {"one terminal event, live"}


def test_live_event_may_be_missed() -> None:
    """Core NATS promises nothing to who is not connected."""
    assert judge(history(live=())) == ()


@pytest.mark.parametrize(
    ("more", "answers"),
    [
        (sent(2, "t-2"), ()),
        (sent(2, None), ()),
        (sent(2, None, "malformed"), ()),
        (sent(2, "t-1", "conflicting", b"other"), ()),
        (sent(2, "t-1", "repeated"), (event(3, "rejected", "t-1", stream_sequence=2, code="conflict"),)),
        (sent(2, None, "invalid"), (event(3, "rejected", "d-2", stream_sequence=2, code="conflict"),)),
    ],
    ids=["lost", "lost, id given", "bad one unanswered", "conflict unanswered", "repeated rejected", "wrong reason"],
)
def test_unanswered_request_is_seen(more: Submission, answers: tuple[Event, ...]) -> None:
    """Whatever got a PubAck is accepted or rejected, as it should be."""
    good = history()
    assert "every request answered" in broken(replace(good, sent=(*good.sent, more), events=(*good.events, *answers)))


def test_request_without_puback_is_nobodys_promise() -> None:
    """NATS did not take it: the client knows."""
    good = history()
    assert judge(replace(good, sent=(*good.sent, sent(None, "t-2")))) == ()


def test_conflict_and_repetition_are_answered_as_they_should() -> None:
    """The same request again needs no answer, another one under the same id is rejected."""
    good = history()
    more = (sent(2, "t-1", "repeated"), sent(3, "t-1", "conflicting", b"other"))
    rejection = event(3, "rejected", "t-1", stream_sequence=3, code="conflict")
    assert judge(replace(good, sent=(*good.sent, *more), events=(*good.events, rejection))) == ()


def test_false_reply_to_a_cancellation_is_seen() -> None:
    """The reply said cancelled, the event says completed."""
    assert broken(history(cancels={"t-1": "CANCELLED"})) == {"cancel tells the truth"}


def test_text_of_another_is_seen() -> None:
    """A proposal that the model server never said, or broke off."""
    good = history()
    assert broken(replace(good, calls=())) == {"proposals are the model's"}
    cut = tuple(replace(call, outcome="truncate") for call in good.calls or ())
    assert broken(replace(good, calls=cut)) == {"proposals are the model's"}


@pytest.mark.parametrize(
    "value",
    [None, {"status": "IN_PROGRESS"}, {"status": "COMPLETED", "result": result("a", "b", calls=2)}],
    ids=["gone", "not ended", "another result"],
)
def test_bucket_that_disagrees_is_seen(value: dict[str, Any] | None) -> None:
    """KV and event must say the same."""
    assert "bucket agrees with event" in broken(history(values={} if value is None else {"t-1": value}))


@pytest.mark.parametrize(
    "body",
    [
        result("a", "a"),
        result("a", calls=2 + 18 + 1),
        result("a", "b", results=[{**result("a")["results"][0], "reviews": [review("b"), review("b")]}]),
        result("a", "b", results=[{**result("a")["results"][0], "reviews": [review("a")]}]),
        result("a", "b", comparisons=[{"phase": "vote", "reviewer_id": "a", "order": [n]} for n in "bc"]),
        result("a", "b", comparisons=[{"phase": "compare", "reviewer_id": "c", "order": ["a", "b"]}] * 2),
    ],
    ids=["agent twice", "too many calls", "review twice", "of oneself", "vote twice", "comparison twice"],
)
def test_vote_that_counts_twice_is_seen(body: dict[str, Any]) -> None:
    """In whatever place it would count."""
    assert broken(history(body)) == {"no vote counts twice"}


@pytest.mark.parametrize(
    "left",
    [
        {"waiting": {"AGENT_REQUESTS": 1}},
        {"open_calls": 1},
        {"final_backlogs": (Backlog(at=9.0, consumer="workers", pending=1, unacknowledged=0, floor=1, last=2),)},
        {"final_backlogs": (Backlog(at=9.0, consumer="workers", pending=0, unacknowledged=1, floor=1, last=2),)},
    ],
    ids=["queue", "model", "pending", "unacknowledged"],
)
def test_what_is_left_in_flight_is_seen(left: dict[str, Any]) -> None:
    """Queues, consumers and the model server are empty at the end."""
    assert broken(history(**left)) == {"nothing in flight"}


def test_growing_process_is_seen() -> None:
    """Twice its early size and more; a short life tells nothing."""

    def sizes(*mebibytes: int) -> tuple[Memory, ...]:
        return tuple(Memory(at=float(i), process="collector 1", bytes=n << 20) for i, n in enumerate(mebibytes))

    assert broken(history(memory=sizes(*range(100, 900, 20)))) == {"memory bounded"}
    assert judge(history(memory=sizes(*[200] * 40))) == ()
    assert judge(history(memory=sizes(100, 900))) == ()


def test_process_left_running_is_seen() -> None:
    """Named, so that it can be looked for."""
    assert broken(history(left=("17 raylet",))) == {"no process left"}


def test_repeated_work_is_counted() -> None:
    """Attempts beyond the first good one, and calls that were left open."""
    calls = (
        ModelCall(request_id="t.0.propose.a.1", started=1.0, ended=3.0, outcome="aborted"),
        ModelCall(request_id="t.0.propose.a.2", started=9.0, ended=10.0, outcome="completed"),
        ModelCall(request_id="t.0.propose.b.1", started=-9.0, ended=-8.5, outcome="completed"),
        ModelCall(request_id="t.0.propose.b.5", started=9.0, ended=10.0, outcome="completed"),
    )
    kill = InjectedFault(number=0, kind="kill", target="actor", began=2.0, ended=2.0, what="")
    found = history(calls=calls, injected=(kill,))
    counted = repeated(found)
    assert counted is not None
    assert (counted.calls, counted.needed, counted.aborted, counted.again, counted.in_flight) == (4, 2, 1, 1, 1)
    assert counted.without_need == ("t.0.propose.b",)
    assert [recovery.times for recovery in recoveries(found, 9.0)] == [(), (7.0,), ()]


def test_what_others_do_is_left_out() -> None:
    """On somebody else's cluster their tasks are not this run's, nor is their backlog."""
    good = history()
    theirs = (
        event(7, "completed", "theirs", **result("z")),
        event(8, "rejected", "", stream_sequence=9, code="malformed"),
    )
    seen = (("deliberation.completed", "theirs"),) * 2
    shared = replace(good, events=(*good.events, *theirs), live=seen, waiting={"AGENT_REQUESTS": 3})
    assert broken(shared)
    assert judge(of_its_own(shared)) == ()


def test_work_repeated_without_need_is_seen() -> None:
    """Answered twice, and nothing was broken meanwhile that could strand a call."""
    calls = tuple(
        ModelCall(request_id=f"t.0.propose.b.{n}", started=1.0, ended=2.0, outcome="completed", digest=digest_of(TEXT))
        for n in (1, 5)
    )

    def after(kind: str, target: str, at: float) -> set[str]:
        fault = InjectedFault(number=0, kind=kind, target=target, began=at, ended=at, what="")
        return broken(history(calls=calls, injected=(fault,)))

    assert broken(history(calls=calls)) == {"repeated work bounded"}
    assert after("kill", "actor", 1.5) == after("crash", "worker.stored", 1.5) == set()
    assert after("model", "stop", 1.5) == set()
    assert after("model", "http_500", 1.5) == {"repeated work bounded"}
    assert after("kill", "actor", 9.0) == {"repeated work bounded"}
    assert after("kill", "collector", 1.5) == after("crash", "runner.saved", 1.5) == {"repeated work bounded"}


@pytest.mark.parametrize(("ready_at", "expected"), [(5.0, set()), (3.0, {"repeated work bounded"})])
def test_what_was_published_as_nats_died_may_be_stored_twice(ready_at: float, expected: set[str]) -> None:
    """Its publisher gives it up after some seconds, and publishes it again."""
    calls = tuple(
        ModelCall(
            request_id=f"t.0.propose.b.{n}", started=10.0, ended=11.0, outcome="completed", digest=digest_of(TEXT)
        )
        for n in (1, 1001)
    )
    kill = InjectedFault(number=0, kind="kill", target="nats", began=2.0, ended=2.5, ready_at=ready_at, what="")
    assert broken(history(calls=calls, injected=(kill,))) == expected


def test_a_call_is_in_flight_until_it_is_answered() -> None:
    """Also while its answers are of no use: it is asked again and again, and then something breaks."""
    calls = tuple(
        ModelCall(request_id=f"t.0.propose.b.{n}", started=at, ended=at + 1, outcome=outcome, digest=digest_of(TEXT))
        for n, at, outcome in ((1, 1.0, "malformed"), (2, 8.0, "completed"), (3, 8.5, "completed"))
    )
    fault = InjectedFault(number=0, kind="delete", target="workers", began=8.2, ended=8.4, what="")
    assert broken(history(calls=calls, injected=(fault,))) == set()
    assert broken(history(calls=calls)) == {"repeated work bounded"}


def test_what_does_not_run_again_is_seen() -> None:
    """Killed, and never started again."""
    running = {"dispatcher": 2, "collector": 1, "actor": 2, "raylet": 1, "gcs": 1, "nats": 1}
    assert broken(history(running=running)) == {"fleet whole again"}


def test_take_over_is_measured_to_the_last_message_held() -> None:
    """Until everything that the stream held at the kill is acknowledged."""
    samples = tuple(
        Backlog(at=at, consumer="dispatcher", pending=0, unacknowledged=0, floor=floor, last=last)
        for at, floor, last in ((1.0, 5, 5), (2.1, 5, 8), (4.0, 7, 9), (6.0, 8, 11))
    )
    kill = InjectedFault(number=0, kind="kill", target="dispatcher", began=2.0, ended=2.0, what="")
    (take_over, _, _) = recoveries(history(backlogs=samples, injected=(kill,)), 9.0)
    assert take_over.times == (4.0,)
    other = InjectedFault(number=1, kind="stop", target="nats", began=3.0, ended=5.0, what="")
    (disturbed, _, _) = recoveries(history(backlogs=samples, injected=(kill, other)), 9.0)
    assert disturbed.times == ()


# --- counters ---------------------------------------------------------------------------------------------------------


def life(process: str, first: float, last: float, **counted: float) -> Life:
    return Life(process=process, began=first, first=first, last=last, counted=counted)


ONE_ACCEPTED = (Fact(series="accepted", amount=1, since=10.0, until=20.0),)


def test_counters_that_add_up_are_true() -> None:
    """Over all processes, whoever has counted."""
    lives = [life("dispatcher", 0, 100, accepted=1), life("dispatcher-2", 0, 100, accepted=0)]
    assert list(differences(lives, ONE_ACCEPTED)) == []


def test_what_is_counted_twice_is_seen() -> None:
    """Whatever died meanwhile."""
    lives = [life("dispatcher", 0, 15, accepted=1), life("dispatcher", 18, 100, accepted=1)]
    assert list(differences(lives, ONE_ACCEPTED)) == [("accepted", "2 counted, 0 to 1 recorded")]


def test_what_nobody_has_counted_is_seen() -> None:
    """Unless it happened after the last scrape of a process that died."""
    assert list(differences([life("dispatcher", 0, 100)], ONE_ACCEPTED)) == [("accepted", "0 counted, 1 to 1 recorded")]
    died = [life("dispatcher", 0, 15), life("dispatcher", 18, 100)]
    assert list(differences(died, ONE_ACCEPTED)) == []
    never_back = [life("dispatcher", 0, 15), life("dispatcher-2", 0, 100)]
    assert list(differences(never_back, ONE_ACCEPTED)) == []
    before = [life("dispatcher", 0, 5), life("dispatcher", 8, 100)]
    assert list(differences(before, ONE_ACCEPTED)) != []


def test_counters_are_read_from_the_metrics() -> None:
    """By the label that is recorded, summed over the others."""
    metrics = Metrics()
    for degraded in ("true", "false"):
        metrics["fleet_deliberations_total"].at("COMPLETED", "DEV", "default", degraded).inc(2)
    metrics["fleet_calls_total"].at("propose", "m", "gpu-1", "completed").inc(3)
    sums = read(metrics.text().decode())
    assert sums[series("fleet_deliberations_total", status="COMPLETED")] == 4
    assert sums[series("fleet_calls_total")] == 3
    assert sums[series("fleet_rejections_total", code="invalid")] == 0


def test_redeliveries_are_held_against_what_nats_tells() -> None:
    """Whether one was counted that NATS has not made."""
    name = series("fleet_redelivered_total", consumer="workers")
    (look,) = history().final_backlogs
    run = replace(history(), events=(), lives=(life("collector", 0, 100, **{name: 1.0}),))
    for delivered, seen in ((0, True), (1, False)):
        found = judge(replace(run, final_backlogs=(replace(look, delivered=delivered),)))
        assert (name in [violation.where for violation in found]) == seen


def test_counters_are_held_against_the_streams() -> None:
    """Of a whole run: what was accepted, how it ended, calls and tokens."""
    used = {"calls": 3, "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 5}
    body = result("a", "b") | {"usage": used}
    names = ("fleet_deliberations_accepted_total", 'fleet_deliberations_total{status="COMPLETED"}', "fleet_calls_total")
    counted = dict(zip(names, (1.0, 1.0, 3.0), strict=True))
    counted |= {
        f'fleet_tokens_total{{kind="{kind}"}}': n for kind, n in (("prompt", 10), ("cached", 4), ("completion", 5))
    }
    good = history(body, lives=(life("collector", 0, 100, **counted),))
    assert "counters are true" not in broken(good)
    for name in counted:
        lied = counted | {name: counted[name] + 1}
        assert "counters are true" in broken(history(body, lives=(life("collector", 0, 100, **lied),)))
