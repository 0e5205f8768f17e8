"""Load and faults follow from the seed alone."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from fleet import crashpoints
from fleet.chaos import load, schedule
from fleet.chaos.faults import HOW
from fleet.errors import ConfigError

CARDS = schedule.cards()


def plan(seed: int, count: int) -> tuple[schedule.Fault, ...]:
    return schedule.plan(seed, count, CARDS, stop_s=60.0, ack_wait_s=9.0)


def requests(seed: int, count: int = 300) -> tuple[load.Request, ...]:
    return load.requests(seed, count, 100.0, timeout_s=60.0, large=True)


def test_same_seed_same_run() -> None:
    """And another one with another seed."""
    assert plan(1, 50) == plan(1, 50) != plan(2, 50)
    assert requests(1) == requests(1) != requests(2)


def test_every_fault_comes_once_before_any_comes_twice() -> None:
    """So a long run leaves nothing out."""
    dealt = Counter((fault.kind, fault.target) for fault in plan(3, 2 * len(CARDS)))
    assert set(dealt) == set(CARDS)
    assert set(dealt.values()) == {2}


def test_short_run_mixes_the_families() -> None:
    """Each kind once, before any kind comes twice."""
    kinds = {kind for kind, _ in CARDS}
    assert {fault.kind for fault in plan(4, len(kinds))} == kinds


def test_faults_are_ordered_and_bounded() -> None:
    """In time, and no stop longer than was asked for."""
    faults = plan(5, 200)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert max(fault.for_s for fault in faults if fault.kind == "stop") <= 60.0
    assert all(fault.for_s > 9.0 for fault in faults if fault.kind == "partition")


def test_kills_that_are_measured_are_left_alone() -> None:
    """Nothing goes on before them or soon after."""
    faults = plan(6, 200)
    for before, fault, after in zip(faults, faults[1:], faults[2:], strict=False):
        if fault.kind == "kill" and fault.target in schedule.MEASURED:
            assert fault.at_s >= before.at_s + before.for_s
            assert after.at_s >= fault.at_s + schedule.QUIET_S - 0.01


def test_somebody_elses_cluster_gets_nothing_but_messages() -> None:
    """No process, link, stream or model server of theirs is touched."""
    assert {kind for kind, _ in schedule.cards(safe=True)} == set(schedule.SAFE)


def test_faults_can_be_chosen() -> None:
    """By kind, or one by one."""
    assert {kind for kind, _ in schedule.cards(["kill"])} == {"kill"}
    assert schedule.cards(["kill:nats"]) == (("kill", "nats"),)
    assert schedule.cards(["frobnicate"]) == ()


def test_every_kind_of_fault_can_be_made() -> None:
    """The schedule names nothing that is not there."""
    assert {kind for kind, _ in CARDS} == set(HOW)


def test_load_has_everything_in_it() -> None:
    """Good, repeated, conflicting and bad requests; named and unnamed ones; cancelled ones."""
    made = requests(7)
    assert {request.kind for request in made} == set(get_args(load.Kind))
    good = [request for request in made if request.kind == "good"]
    assert len(good) == 300
    assert {request.task_id is None for request in good} == {True, False}
    assert any(request.cancel_after_s is not None for request in good)


def test_crash_point_is_read_from_the_environment() -> None:
    """A name and how often it must be reached; a wrong one is an error, not silence."""
    assert crashpoints.parse({}) is None
    assert crashpoints.parse({"FLEET_CRASH_AT": "runner.saved"}) == ("runner.saved", 1)
    assert crashpoints.parse({"FLEET_CRASH_AT": "runner.saved:3"}) == ("runner.saved", 3)
    for wrong in ("runner.save", "runner.saved:0", "runner.saved:x"):
        with pytest.raises(ConfigError):
            crashpoints.parse({"FLEET_CRASH_AT": wrong})


def test_crash_points_are_those_of_the_code() -> None:
    """Each name is reached somewhere, and nothing else is."""
    root = Path(__file__).parents[3]
    sources = [path for folder in ("fleet", "workers") for path in (root / folder).rglob("*.py")]
    reached = {name for path in sources for name in re.findall(r'\breach\("([^"]+)"\)', path.read_text())}
    assert reached == set(crashpoints.POINTS)
