"""What `fleet chaos` knows of tenants: their accounts, their load, and invariants that can fail."""

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fleet.chaos import load
from fleet.chaos.history import Backlog, Event, Heard, History, InjectedFault, Outage
from fleet.chaos.invariants import judge
from fleet.chaos.load import Request, Submission
from fleet.chaos.recovery import recoveries
from fleet.chaos.tenants.accounts import TENANTS, exports, imports
from fleet.tenants.names import DEFAULT_TENANT, key_of

TENANTS_CONF = Path(__file__).parents[3] / "deploy" / "nats" / "tenants.conf"
A, B = TENANTS
EVERYONE = (DEFAULT_TENANT, A, B)
APART, TOKENS = "tenants apart", "tokens of tenants are true"
ENDED_AT = 50.0


def end(tenant: str, task_id: str = "t-1", status: str = "FAILED", **usage: int) -> Event:
    """Its digest is its key."""
    key = key_of(tenant, task_id)
    return Event(
        sequence=2,
        at=ENDED_AT,
        subject=f"deliberation.{status.lower()}",
        task_id=key,
        tenant=tenant,
        digest=key,
        body={"status": status, "tenant": tenant, "task_id": task_id, "usage": {"calls": 1, **usage}},
    )


def heard(tenant: str, task_id: str = "t-1", digest: str = "", name: str = "failed") -> Heard:
    own = digest or key_of(tenant, task_id)
    return Heard(tenant=tenant, subject=f"deliberation.{name}", task_id=task_id, digest=own)


def history(*ends: Event, **changes: Any) -> History:
    """A task of each tenant under one id, which ended and was heard of."""
    events = ends or tuple(end(tenant) for tenant in EVERYONE)
    good = History(events=events, heard=tuple(map(heard, EVERYONE)), tokens={})
    return replace(good, **changes)


def broken(found: History, invariant: str) -> list[tuple[str, str]]:
    return [(one.where, one.detail) for one in judge(found) if one.invariant == invariant]


def test_tenants_that_heard_their_own_are_apart() -> None:
    """Though all of them use the same id."""
    assert broken(history(), APART) == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (heard(A, "t-2"), "not its own"),
        (heard(A, digest=key_of(B, "t-1")), "with the text of team-b.t-1"),
        (heard(A, name="completed"), "heard deliberation.completed"),
        (heard(A), "heard 2 terminal events"),
        (heard(DEFAULT_TENANT, "team-a.t-2"), "not its own"),
    ],
    ids=["id of another", "text of another", "other end", "twice", "key of another"],
)
def test_what_is_not_a_tenants_own_is_seen(more: Heard, told: str) -> None:
    """An id, a text, another end, or the same one again."""
    good = history()
    found = broken(replace(good, heard=(*(good.heard or ()), more)), APART)
    assert any(told in detail for _, detail in found), found


def test_end_that_its_tenant_missed_is_seen() -> None:
    """Unless its connection was broken then, or NATS was."""
    missed = history(heard=tuple(map(heard, (DEFAULT_TENANT, B))))
    assert [where for where, _ in broken(missed, APART)] == ["team-a.t-1"]

    def outage(tenant: str, began: float) -> tuple[Outage, ...]:
        return (Outage(tenant=tenant, began=began, ended=began + 5.0),)

    assert broken(replace(missed, outages=outage(A, ENDED_AT - 1.0)), APART) == []
    assert broken(replace(missed, outages=outage(B, ENDED_AT - 1.0)), APART)
    assert broken(replace(missed, outages=outage(A, ENDED_AT - 20.0)), APART)

    def fault(kind: str, target: str) -> tuple[InjectedFault, ...]:
        return (InjectedFault(number=0, kind=kind, target=target, began=ENDED_AT, ended=ENDED_AT, what=""),)

    assert broken(replace(missed, injected=fault("kill", "nats")), APART) == []
    assert broken(replace(missed, injected=fault("kill", "dispatcher")), APART)
    assert broken(replace(missed, injected=fault("full", "nats")), APART)


def test_cancellation_by_another_tenant_is_seen() -> None:
    """The id is the same; only who asked has its task cancelled."""
    ends = (end(A, status="CANCELLED"), end(B, status="CANCELLED"))
    both = history(*ends, heard=(heard(A, name="cancelled"), heard(B, name="cancelled")))
    assert [where for where, _ in broken(replace(both, cancels={"team-a.t-1": "CANCELLED"}), APART)] == ["team-b.t-1"]
    assert broken(replace(both, cancels={"team-a.t-1": "CANCELLED", "team-b.t-1": "UNANSWERED"}), APART) == []


def test_answer_of_another_task_is_seen() -> None:
    """What `deliberation.ask` replied is what the tenant's own event says."""
    own, other = ({"tenant": tenant, "task_id": "t-1", "status": "FAILED"} for tenant in (A, B))
    assert broken(history(answers={"team-a.t-1": own}), APART) == []
    assert [where for where, _ in broken(history(answers={"team-a.t-1": other}), APART)] == ["team-a.t-1"]


def test_what_was_asked_anew_after_a_restart_of_nats_may_be_answered_as_another_task() -> None:
    """NATS has forgotten the message id, and the request has no id of its own. The answer is still its tenant's."""
    ends = (end(A, "d-1"), end(A, "d-2"), end(B, "d-2"))
    heard_of = (heard(A, "d-1"), heard(A, "d-2"), heard(B, "d-2"))
    request = Request(number=0, at_s=0.0, kind="good", body=b"{}", tenant=A)
    sent = (Submission(request=request, at=ENDED_AT - 9.0, sequence=1),)
    restart = InjectedFault(number=0, kind="kill", target="nats", began=ENDED_AT - 5, ended=ENDED_AT - 4, what="")
    mine, other = ({"tenant": tenant, "task_id": "d-2", "status": "FAILED"} for tenant in (A, B))
    good = history(*ends, heard=heard_of, sent=sent, injected=(restart,), answers={"team-a.d-1": mine})
    assert broken(good, APART) == []
    assert broken(replace(good, injected=()), APART)
    later = replace(restart, began=ENDED_AT + 600, ended=ENDED_AT + 601)
    assert broken(replace(good, injected=(later,)), APART)
    assert broken(replace(good, answers={"team-a.d-1": other}), APART)
    named = replace(sent[0], request=replace(request, task_id="d-1"))
    assert broken(replace(good, sent=(named,)), APART)


def test_tokens_that_add_up_are_true() -> None:
    """Prompt, completion and estimated ones, of every end; a tenant that used none has no counter."""
    ends = (
        end(A, "t-1", prompt_tokens=10, completion_tokens=5, cached_tokens=4),
        end(A, "t-2", "CANCELLED", estimated_tokens=3),
        end(DEFAULT_TENANT, prompt_tokens=7),
        end(B),
    )
    assert broken(history(*ends, tokens={A: 18, DEFAULT_TENANT: 7}), TOKENS) == []


@pytest.mark.parametrize("tokens", [{}, {A: 14}, {A: 16}, {A: 15, B: 1}, {B: 15}])
def test_tokens_that_are_lost_or_counted_twice_are_seen(tokens: dict[str, int]) -> None:
    """Or counted for another tenant."""
    assert broken(history(end(A, prompt_tokens=10, completion_tokens=5), tokens=tokens), TOKENS)


def test_somebody_elses_cluster_tells_nothing_of_it() -> None:
    """There are no tenants' connections there, and no counters of this run."""
    found = history(end(A, prompt_tokens=1), heard=None, tokens=None)
    assert (broken(found, APART), broken(found, TOKENS)) == ([], [])


def test_requests_of_tenants_are_known_by_tenant_and_sequence() -> None:
    """Each tenant's stream counts for itself: the same sequence and id are another request's."""

    def sent(tenant: str) -> load.Submission:
        request = load.Request(number=0, at_s=0.0, kind="good", body=b"{}", tenant=tenant)
        return load.Submission(request=request, at=0.0, sequence=1)

    def accepted(tenant: str) -> Event:
        changes = {"subject": "deliberation.accepted", "body": {"stream_sequence": 1}}
        return replace(end(tenant, "d-1"), **changes)

    asked = tuple(map(sent, EVERYONE))
    answered = history(*map(accepted, EVERYONE), sent=asked)
    assert broken(answered, "every request answered") == []
    lost = history(*map(accepted, (DEFAULT_TENANT, A)), sent=asked)
    assert broken(lost, "every request answered") == [
        ("request 1 of team-b (good)", "team-b.d-1 was never accepted"),
    ]


def test_take_over_is_over_when_the_requests_of_all_tenants_are_taken() -> None:
    """Their consumers have one name, and are not one."""
    samples = [
        Backlog(at=at, consumer="dispatcher", pending=0, unacknowledged=0, floor=floor, last=9, tenant=tenant)
        for tenant, done_at in ((DEFAULT_TENANT, 3.0), (A, 5.0))
        for at, floor in ((1.0, 8), (2.1, 8), (done_at, 9), (7.0, 9))
    ]
    kill = InjectedFault(number=0, kind="kill", target="dispatcher", began=2.0, ended=2.0, what="")
    (take_over, _, _) = recoveries(history(backlogs=tuple(samples), injected=(kill,)), 9.0)
    assert take_over.times == (3.0,)


def test_tenants_share_the_load_and_its_ids() -> None:
    """Each has all kinds of requests, and ids that others have too; who has no tenants has none of it."""

    def made(*tenants: str) -> tuple[load.Request, ...]:
        return load.requests(7, 900, 100.0, timeout_s=60.0, large=True, tenants=tenants)

    asked = made(*EVERYONE)
    assert asked == made(*EVERYONE)
    ids = {name: {one.task_id for one in asked if one.tenant == name and one.task_id} for name in EVERYONE}
    assert len(ids[A] & ids[B] & ids[DEFAULT_TENANT]) > 30
    for tenant in EVERYONE:
        own = [one for one in asked if one.tenant == tenant]
        assert {"good", "repeated", "conflicting", "malformed", "invalid"} <= {one.kind for one in own}
        assert any(one.ask for one in own)
        assert any(one.cancel_after_s for one in own)
        named = [one.task_id for one in own if one.kind == "good" and one.task_id]
        assert len(named) == len(set(named))
    assert {one.tenant for one in made(DEFAULT_TENANT)} == {DEFAULT_TENANT}


def test_accounts_are_those_that_are_shipped() -> None:
    """Exports of the fleet, and imports of each tenant, entry by entry."""
    conf = TENANTS_CONF.read_text()

    def entries(account: str, what: str) -> list[str]:
        _, _, block = conf.partition(f"\n  {account} {{")
        _, _, listed = block.partition(f"{what}: [\n")
        lines = (line.strip() for line in listed.partition("\n    ]")[0].splitlines())
        return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]

    # In a fleet of one's own the default tenant is in the fleet's account.
    shipped = [entry for entry in entries("FLEET", "exports") if "accounts: [CLIENTS]" not in entry]
    assert sorted(exports()) == sorted(shipped)
    for tenant in TENANTS:
        assert sorted(imports(tenant)) == sorted(entries(tenant, "imports"))
