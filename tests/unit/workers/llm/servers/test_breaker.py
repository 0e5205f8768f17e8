from hypothesis import given
from hypothesis import strategies as st

from workers.llm.servers.breaker import Breaker, Outcome, Rules

RULES = Rules(failures=3, share=0.5, cool_down_s=1.0, longest_cool_down_s=4.0)


def after(*outcomes: Outcome) -> Breaker:
    """A breaker that has seen these attempts, one after the other, at time 0."""
    breaker = Breaker(RULES)
    for outcome in outcomes:
        breaker.end(breaker.begin(0.0), outcome, 0.0)
    return breaker


def probe(breaker: Breaker, outcome: Outcome, now: float) -> None:
    assert breaker.admits(now)
    breaker.end(breaker.begin(now), outcome, now)


def test_it_opens_once_enough_attempts_have_failed() -> None:
    """And not one earlier."""
    assert after("failed", "failed").state(0.0) == "closed"
    assert after("failed", "failed", "failed").state(0.0) == "open"


def test_it_stays_closed_while_most_attempts_succeed() -> None:
    """However many failures there have been in all."""
    few = after(*(["succeeded", "succeeded", "failed"] * 20))  # type: ignore[list-item]
    assert few.state(0.0) == "closed"


def test_abandoned_attempts_are_no_evidence() -> None:
    """Neither for the server nor against it."""
    assert after(*["abandoned"] * 50, "failed", "failed", "failed").state(0.0) == "open"  # type: ignore[list-item]
    assert after(*["abandoned"] * 50).state(0.0) == "closed"  # type: ignore[list-item]


def test_one_probe_is_let_through_after_the_cool_down() -> None:
    """A second one has to wait for its outcome."""
    breaker = after("failed", "failed", "failed")
    assert not breaker.admits(0.99)
    assert breaker.wait_s(0.25) == 0.75
    assert (breaker.state(1.0), breaker.admits(1.0)) == ("half-open", True)
    breaker.begin(1.0)
    assert (breaker.admits(100.0), breaker.wait_s(100.0)) == (False, None)


def test_a_good_probe_closes_it_with_nothing_counted() -> None:
    """It takes as many failures as before to open it again, for the first cool-down."""
    breaker = after("failed", "failed", "failed")
    probe(breaker, "failed", 1.0)
    probe(breaker, "succeeded", 3.0)
    assert breaker.state(3.0) == "closed"
    for _ in range(2):
        probe(breaker, "failed", 3.0)
    assert breaker.state(3.0) == "closed"
    probe(breaker, "failed", 3.0)
    assert (breaker.state(3.0), breaker.cool_down_s) == ("open", 1.0)


def test_cool_downs_double_up_to_the_longest() -> None:
    """With each probe that fails."""
    breaker, now, waits = after("failed", "failed", "failed"), 0.0, []
    for _ in range(5):
        waits.append(breaker.wait_s(now))
        now += waits[-1] or 0.0
        probe(breaker, "failed", now)
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_an_abandoned_probe_makes_room_for_another() -> None:
    """A cancelled call must not leave the breaker half-open for ever."""
    breaker = after("failed", "failed", "failed")
    probe(breaker, "abandoned", 1.0)
    assert breaker.admits(1.0)


def test_attempts_that_began_before_it_opened_change_nothing() -> None:
    """They say what was, not what is: neither a late success nor a late failure counts, not even beside the probe."""
    breaker = Breaker(RULES)
    eras = [breaker.begin(0.0) for _ in range(6)]
    for era in eras[:4]:
        breaker.end(era, "failed", 0.0)
    assert (breaker.state(0.0), breaker.opened) == ("open", 1)
    breaker.end(eras[4], "succeeded", 0.5)
    assert breaker.state(0.5) == "open"
    breaker.begin(1.0)
    breaker.end(eras[5], "succeeded", 1.0)
    assert (breaker.state(1.0), breaker.admits(1.0)) == ("half-open", False)


STEPS = st.lists(
    st.one_of(
        st.just("begin"),
        st.tuples(st.integers(0, 9), st.sampled_from(["succeeded", "failed", "abandoned"])),
        st.floats(0.0, 3.0),
    ),
    max_size=80,
)


@given(STEPS)
def test_whatever_happens_one_probe_at_a_time_and_bounded_cool_downs(steps: list[object]) -> None:
    """No attempt begins during a cool-down, none beside a probe, and a breaker that is idle admits one in the end."""
    breaker, now = Breaker(RULES), 0.0
    running: list[tuple[int, bool]] = []
    for step in steps:
        match step:
            case "begin":
                if breaker.admits(now):
                    probes = breaker.state(now) == "half-open"
                    running.append((breaker.begin(now), probes))
            case float():
                now += step
            case (int() as index, outcome) if running:
                era, _ = running.pop(index % len(running))
                breaker.end(era, outcome, now)  # type: ignore[arg-type]
        assert sum(probes for _, probes in running) <= 1
        if breaker.state(now) == "open":
            assert not breaker.admits(now)
            assert 1.0 <= breaker.cool_down_s <= 4.0
            assert 0.0 < (breaker.wait_s(now) or 0.0) <= 4.0
    for era, _ in running:
        breaker.end(era, "abandoned", now)
    assert breaker.admits(now + 4.0)
