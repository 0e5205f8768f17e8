import heapq
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from fleet.tenants.window import KEPT_S, LEAST, REMEMBERED_S, Took, Window

CALLS = AGENTS = 3
ALONE_MS = 10.0


@dataclass
class Fleet:
    """Deliberations go through its steps, which move `at_once` of them on at the same time; the others wait in their
    order. Then comes the model, which takes as many as there are."""

    window: Window
    model_ms: float = 0.0
    at_once: int = 1
    varies: float = 0.0
    """By how much the steps take longer, or less long, than usual: a part of it."""
    now: float = 0.0
    waiting: dict[str, deque[str]] = field(default_factory=dict)
    open_: dict[str, float] = field(default_factory=dict)
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    most: int = 0
    _events: list[tuple[float, int, str, str]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _free_at: list[float] = field(default_factory=list)
    _rng: Random = field(default_factory=lambda: Random(7))

    def ask(self, tenant: str) -> None:
        self.waiting.setdefault(tenant, deque()).append(f"{tenant}.{next(self._numbers)}")
        self._begin()

    def _begin(self) -> None:
        for tenant, keys in self.waiting.items():
            while keys and self.window.admits(tenant, [name for name, held in self.waiting.items() if held], self.now):
                key = keys.popleft()
                self.window.begun(tenant, key, self.now)
                self.open_[key] = self.now
                self.most = max(self.most, len(self.open_))
                free = heapq.heappop(self._free_at) if len(self._free_at) == self.at_once else 0.0
                steps_done = max(self.now, free) + ALONE_MS / 1000 * self._rng.uniform(1 - self.varies, 1 + self.varies)
                heapq.heappush(self._free_at, steps_done)
                heapq.heappush(self._events, (steps_done + self.model_ms / 1000, next(self._numbers), tenant, key))

    def end_one(self) -> str:
        """The tenant of the next deliberation that ends."""
        self.now, _, tenant, key = heapq.heappop(self._events)
        duration_ms = 1000 * (self.now - self.open_.pop(key))
        self.took_ms.setdefault(tenant, []).append(duration_ms)
        self.ended[tenant] += 1
        held = [name for name, keys in self.waiting.items() if keys]
        self.window.ended(tenant, key, Took(duration_ms, duration_ms - self.model_ms, CALLS, AGENTS), held, self.now)
        return tenant

    def run(self, in_flight: dict[str, int], ends: int, of: str = "light") -> list[float]:
        """Each tenant has so many clients, who ask again at once. What the last of `ends` ends took."""
        for tenant, clients in in_flight.items():
            asked = sum(key.startswith(tenant) for key in self.open_) + len(self.waiting.get(tenant, ()))
            for _ in range(clients - asked):
                self.ask(tenant)
        until = self.ended[of] + ends
        while self.ended[of] < until:
            self.ask(self.end_one())
        return self.took_ms[of][-ends:]


def fleet(weights: dict[str, float] | None = None, **settings: float) -> Fleet:
    return Fleet(Window(weights or {}), **settings)  # type: ignore[arg-type]


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def begins(window: Window, tenant: str, now: float, waiting: tuple[str, ...] = ()) -> int:
    """How many more of this tenant's begin, of a hundred."""
    for number in range(100):
        if not window.admits(tenant, waiting, now):
            return number
        window.begun(tenant, f"{tenant}.more-{now}-{number}", now)
    return 100


@pytest.mark.parametrize("varies", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("at_once", [1, 4, 8])
@pytest.mark.parametrize("clients", [16, 64])
def test_the_window_leaves_the_fleet_most_of_its_work(clients: int, at_once: int, varies: float) -> None:
    """However much times differ by themselves: that is taken for waiting by nobody, or not for long."""
    stage = fleet(at_once=at_once, model_ms=20.0, varies=varies)
    stage.run({"light": 1}, 20)
    stage.run({"light": 1, "heavy": clients}, 40)
    began, had = stage.now, stage.ended.total()
    stage.run({"light": 1, "heavy": clients}, 200)
    carries = min(at_once / ALONE_MS, (clients + 1) / (ALONE_MS + stage.model_ms)) * 1000
    assert (stage.ended.total() - had) / (stage.now - began) >= 0.6 * carries


@pytest.mark.parametrize("clients", [4, 16, 64])
def test_who_asks_one_thing_after_the_other_takes_at_most_twice_its_time(clients: int) -> None:
    """Whatever others ask, once the window has fallen."""
    stage = fleet()
    alone = middle(stage.run({"light": 1}, 20))
    stage.run({"light": 1, "heavy": clients}, 20)
    had = stage.ended["heavy"]
    beside = stage.run({"light": 1, "heavy": clients}, 100)
    assert middle(beside) <= 2.01 * alone
    assert stage.ended["heavy"] - had >= 95


def test_without_an_earlier_time_alone_the_window_is_found_nevertheless() -> None:
    """Its own times tell, as they change; less exactly, as they differ by themselves. Without a window: eleven times as
    much."""
    stage = fleet(at_once=4)
    stage.run({"heavy": 5}, 20, of="heavy")
    stage.run({"heavy": 5, "light": 1}, 8)
    beside = stage.run({"heavy": 40, "light": 1}, 400)
    assert middle(beside[200:]) <= 3.01 * ALONE_MS


def test_who_is_alone_has_no_window() -> None:
    """However long they wait for each other."""
    stage = fleet()
    stage.run({"heavy": 1}, 20, of="heavy")
    stage.run({"heavy": 64}, 500, of="heavy")
    assert stage.most == 64


def test_where_models_take_most_of_the_time_there_is_no_window() -> None:
    """Sixteen of them wait for less than a twelfth of it."""
    stage = fleet(model_ms=3_000.0)
    stage.run({"light": 1}, 20)
    stage.run({"light": 1, "heavy": 16}, 50)
    assert stage.most == 17


def test_of_those_who_ask_for_more_than_their_share_nobody_gets_a_window() -> None:
    """They wait for their own."""
    stage = fleet()
    stage.run({"one": 1}, 20, of="one")
    stage.run({"one": 32, "other": 32}, 200, of="one")
    assert stage.most == 64


def test_the_window_grows_again_once_nobody_waits() -> None:
    """The machine was slow for a moment, say."""
    stage = fleet(at_once=1)
    stage.run({"light": 1}, 20)
    stage.run({"light": 1, "heavy": 16}, 40)
    stage.at_once = 100
    stage.run({"light": 1, "heavy": 16}, 120)
    assert len(stage.open_) == 17


def slowed_down() -> Window:
    """At time 0: as small as it gets, and nothing in progress."""
    stage = fleet()
    stage.run({"light": 1}, 20)
    stage.run({"light": 1, "heavy": 16}, 100)
    window = stage.window
    while stage._events:
        stage.end_one()
    window.ended("light", "light.last", None, (), stage.now)
    return shifted(window, stage.now)


def shifted(window: Window, by: float) -> Window:
    window._needed_until -= by
    window._fell_at -= by
    window._size = LEAST
    return window


def test_of_each_tenant_one_may_be_in_progress_however_small_the_window() -> None:
    window = slowed_down()
    assert begins(window, "heavy", 0.0) == 1
    assert begins(window, "light", 0.0) == 1
    assert begins(window, "third", 0.0) == 1


def test_the_window_is_shared_by_the_weights() -> None:
    """A heavier tenant finds room in it although it is full."""
    window = Window({"light": 3.0})
    window._size, window._needed_until = 8.0, 1.0
    assert begins(window, "heavy", 0.0, ("light",)) == 8
    assert begins(window, "light", 0.0, ("heavy",)) == 6


def test_the_window_ends_with_who_needs_it() -> None:
    """Its last end was so long ago."""
    assert begins(slowed_down(), "heavy", KEPT_S + 0.1) == 100


def test_an_end_that_was_not_heard_is_forgotten_once_it_does_not_run() -> None:
    """What was just admitted need not be recorded yet."""
    window = slowed_down()
    window.begun("heavy", "heavy.lost", 0.0)
    window.begun("heavy", "heavy.runs", 0.0)
    window.begun("light", "light.new", 1.0)
    window.keep({"heavy.runs"}, 0.5)
    assert {tenant: [*begun] for tenant, begun in window._open.items() if begun} == {
        "heavy": ["heavy.runs"],
        "light": ["light.new"],
    }


def test_a_time_that_is_long_ago_says_nothing() -> None:
    """All has become slower, and not by what others ask: the window grows nevertheless."""
    window, now = Window({}), 0.0
    for overhead_ms in (10.0, 1_000.0, 1_000.0):
        for number in range(8):
            now += 1.1 * REMEMBERED_S / 8
            window.begun("heavy", "heavy.1", now)
            window.begun("light", f"light.{number}", now)
            window.ended("light", f"light.{number}", Took(overhead_ms, overhead_ms, CALLS, AGENTS), (), now)
    assert begins(window, "heavy", now) > 0


@pytest.mark.parametrize(("agents", "is_window"), [(16, True), (2, False)])
def test_as_many_calls_in_more_phases_take_longer_and_have_not_waited(agents: int, is_window: bool) -> None:
    """Sixteen agents of one phase, then two agents with rounds: 16 calls each. The latter pass through the steps more
    often. That slows nobody down, and is none of the other one's fault."""
    window, now = Window({}), 0.0
    for number in range(12):
        window.begun("heavy", f"heavy.{number}", now)
    for number in range(16):
        first = number < 8
        window.begun("light", f"light.{number}", now)
        now += 0.1
        took = Took(100.0, 20.0 if first else 60.0, 16, 16 if first else agents)
        window.ended("light", f"light.{number}", took, (), now)
    assert (window._size is not None) == is_window
