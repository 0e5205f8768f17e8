"""Shares of tokens follow the weights, whatever tenants offer: simulated over many deliberations, without a fleet."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from fleet.tenants.sharing import Shares
from tests.support.variants import some_of

SLOTS = 60
SECONDS = 3_000
WARM_UP = 300
SPEED = 100.0
"""Tokens a second of each open deliberation."""


@dataclass
class Tenant:
    """`tokens`: mean of a deliberation; `offered`: requests that may wait at a time; `cancels_at`: the part of a
    deliberation after which it is cancelled, and tells no tokens."""

    tokens: int
    offered: int
    weight: float = 1.0
    cancels_at: float | None = None
    open: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Fleet:
    """Room for `SLOTS` deliberations, which each dispatcher fills by turns: what an end frees, the next one takes."""

    tenants: dict[str, Tenant]
    dispatchers: list[Shares]
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    served: Counter[str] = field(default_factory=Counter)
    turn: int = 0

    def second(self, waiting: Sequence[str]) -> None:
        for name, tenant in self.tenants.items():
            left = []
            for used, size in tenant.open:
                step = min(SPEED, size - used)
                self.served[name] += step
                told = tenant.cancels_at is None
                if used + step < size * (tenant.cancels_at or 1):
                    left.append((used + step, size))
                else:
                    for dispatcher in self.dispatchers:
                        ms = (used + step) / SPEED * 1_000
                        dispatcher.ended(name, round(size) if told else 0, ms, complete=told)
            tenant.open = left
        while waiting and sum(len(tenant.open) for tenant in self.tenants.values()) < SLOTS:
            self.turn += 1
            dispatcher = self.dispatchers[self.turn % len(self.dispatchers)]
            expected = {name: float(self.tenants[name].tokens) for name in waiting}
            name = dispatcher.next(expected, {name: len(tenant.open) for name, tenant in self.tenants.items()})
            size = self.tenants[name].tokens * self.chance.uniform(0.5, 1.5)
            self.tenants[name].open.append((0.0, size))


def fleet(dispatchers: int = 1, **tenants: Tenant) -> Fleet:
    weights = {name: tenant.weight for name, tenant in tenants.items()}
    return Fleet(tenants, [Shares(weights) for _ in range(dispatchers)])


def shares(fleet: Fleet, seconds: int, waiting: Sequence[str]) -> dict[str, float]:
    before = Counter(fleet.served)
    for _ in range(seconds):
        fleet.second(waiting)
    served = {name: fleet.served[name] - before[name] for name in fleet.tenants}
    return {name: value / sum(served.values()) for name, value in served.items()}


def jain(shares: dict[str, float], fleet: Fleet) -> float:
    values = [share / fleet.tenants[name].weight for name, share in shares.items()]
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


@pytest.mark.parametrize("dispatchers", [1, 3])
@some_of(2, "weights", [(1, 1), (3, 1), (1, 3), (1, 10)])
def test_shares_follow_the_weights(weights: tuple[int, int], dispatchers: int) -> None:
    """One tenant's deliberations are twenty times as long as the other's; both always wait."""
    both = fleet(dispatchers, heavy=Tenant(20_000, 100, weights[0]), light=Tenant(1_000, 10, weights[1]))
    shares(both, WARM_UP, ("heavy", "light"))
    measured = shares(both, SECONDS, ("heavy", "light"))
    for name, tenant in both.tenants.items():
        assert measured[name] == pytest.approx(tenant.weight / sum(weights), rel=0.05)
    assert jain(measured, both) >= 0.98


def test_many_tenants_have_their_shares() -> None:
    many = fleet(2, **{f"t{n}": Tenant(500 * 2**n, 10, 1 + n % 3) for n in range(6)})
    shares(many, WARM_UP, tuple(many.tenants))
    assert jain(shares(many, SECONDS, tuple(many.tenants)), many) >= 0.98


def test_whoever_is_alone_gets_everything() -> None:
    """No slot stays empty, whatever the others' weights are."""
    one = fleet(heavy=Tenant(20_000, 100), light=Tenant(1_000, 10, 100))
    shares(one, WARM_UP, ("heavy",))
    before = one.served.total()
    assert shares(one, SECONDS, ("heavy",))["heavy"] == 1
    assert one.served.total() - before >= 0.98 * SLOTS * SPEED * SECONDS


@pytest.mark.parametrize("dispatchers", [1, 3])
@pytest.mark.parametrize("tokens", [1_000, 20_000])
def test_who_cancels_everything_has_no_more_than_its_share(tokens: int, dispatchers: int) -> None:
    """Just before the end, so that it has the text, and no call of it has told what it used."""
    both = fleet(dispatchers, hostile=Tenant(tokens, 100, cancels_at=0.9), honest=Tenant(5_000, 100))
    shares(both, WARM_UP, ("hostile", "honest"))
    assert shares(both, SECONDS // 3, ("hostile", "honest"))["honest"] == pytest.approx(0.5, rel=0.05)


def test_what_is_cancelled_before_it_began_is_not_charged() -> None:
    both = Shares({})
    for tenant in ("a", "b"):
        both.ended(tenant, 1_000, 1_000)
    for _ in range(100):
        both.ended("b", 0, 0, complete=False)
    both.ended("a", 1, 1)
    assert both.next({"a": 1_000.0, "b": 1_000.0}, {}) == "b"


def test_a_pause_is_no_credit() -> None:
    """A tenant that comes back after a long time gets its share, and not all that it has missed."""
    both = fleet(heavy=Tenant(20_000, 100), light=Tenant(1_000, 10))
    shares(both, WARM_UP, ("heavy", "light"))
    shares(both, SECONDS, ("heavy",))
    shares(both, WARM_UP, ("heavy", "light"))
    assert shares(both, SECONDS, ("heavy", "light"))["light"] == pytest.approx(0.5, rel=0.05)


def test_who_always_has_little_in_progress_saves_nothing_up_by_that() -> None:
    """Its flood has its share, and not all that it could have had before; nor has one that comes back meanwhile."""
    shares, open_ = Shares({}), Counter(little=1)
    for tenant in ("little", *["heavy"] * 1_000):
        assert shares.next({tenant: 1_000.0}, open_) == tenant
        shares.ended(tenant, 1_000, 1_000)
    began = Counter[str]()
    for _ in range(90):
        tenant = shares.next(dict.fromkeys(("little", "heavy", "back"), 1_000.0), open_)
        shares.ended(tenant, 1_000, 1_000)
        began[tenant] += 1
    assert all(29 <= count <= 31 for count in began.values())


def test_a_dispatcher_that_begins_anew_comes_to_the_same_shares() -> None:
    """It knows nothing of what was used; what is open is seen, and ends are heard again."""
    both = fleet(2, heavy=Tenant(20_000, 100), light=Tenant(1_000, 10))
    shares(both, WARM_UP, ("heavy", "light"))
    both.dispatchers[0] = Shares({})
    shares(both, WARM_UP, ("heavy", "light"))
    assert shares(both, SECONDS, ("heavy", "light"))["light"] == pytest.approx(0.5, rel=0.05)


def test_of_equals_who_has_less_in_progress_is_next() -> None:
    """Whoever comes back has had as much as the others by then, and does not wait behind all that they have begun."""
    shares = Shares({})
    shares.ended("a", 1_000, 100)
    assert shares.next({"a": 500.0}, {"a": 4}) == "a"
    assert shares.next({"a": 500.0, "b": 500.0}, {"a": 4}) == "b"


def test_an_estimate_that_was_too_high_is_not_paid_for_by_who_comes_later() -> None:
    """What is open counts for whoever has begun it, and not for the time at which another one comes."""
    shares, open_ = Shares({}), Counter[str]()
    for _ in range(64):
        assert shares.next({"heavy": 4_000.0}, open_) == "heavy"
        open_["heavy"] += 1
    for _ in range(10):
        assert shares.next({"heavy": 4_000.0, "light": 100.0}, open_) == "light"
        for tenant in ("heavy", "light"):
            shares.ended(tenant, 100, 10)
