import asyncio
import heapq
from itertools import count
from random import Random

import pytest

from fleet.model_servers import EndpointConfig
from tests.support.waiting import WITHIN_S, until
from workers.llm.requests import ModelTarget
from workers.llm.servers.endpoints import Endpoints
from workers.llm.servers.queue import Queue, Waiting
from workers.llm.servers.search import Search

SEATS = 4


def waiting(tenant: str = "default", tokens: int = 100, *wants: str, asks: bool = False) -> Waiting:
    return Waiting(
        tenant=tenant,
        is_suspect=False,
        expected_tokens=tokens,
        wants=frozenset(wants or ("a",)),
        asks=asks,
        model="m",
    )


def put(queue: Queue, *calls: Waiting) -> list[asyncio.Event]:
    events = [asyncio.Event() for _ in calls]
    for event, each in zip(events, calls, strict=True):
        queue.put(event, each)
    return events


def awake(events: list[asyncio.Event]) -> list[int]:
    return [number for number, event in enumerate(events) if event.is_set()]


@pytest.mark.parametrize("weights", [{}, {"team": 1.0}])
def test_whoever_came_first_is_next_and_keeps_its_place(weights: dict[str, float]) -> None:
    """Also one that was woken in vain, and waits for something else by now; nobody is woken for another endpoint."""
    queue = Queue(weights)
    events = put(queue, waiting(), waiting("default", 100, "b"), waiting(), waiting())
    queue.wake("a", 2)
    assert awake(events) == [0, 2]
    for event in events:
        event.clear()
    queue.put(events[0], waiting("default", 100, "a", "b"))
    queue.wake("b", 1)
    assert awake(events) == [0]
    queue.drop(events[0], "default")
    queue.wake_all()
    assert awake(events) == [0, 1, 2, 3]


def test_who_only_asks_is_told_that_there_is_no_room() -> None:
    queue = Queue({})
    events = put(queue, waiting(), waiting(asks=True))
    queue.wake_who_asks("b")
    assert awake(events) == []
    queue.wake_who_asks("a")
    assert awake(events) == [1]


def test_a_tenant_that_asks_for_little_does_not_wait_behind_all_that_another_has_waiting() -> None:
    """The next seats are its own, until it has as many; then each has the next one in turn."""
    queue = Queue({"heavy": 1.0, "light": 1.0})
    heavy = put(queue, *(waiting("heavy") for _ in range(100)))
    for _ in range(SEATS):
        queue.begun("heavy", 100)
    for event in heavy[:20]:
        queue.wake("a", 1)
        assert event.is_set()
        queue.drop(event, "heavy")
        queue.ended("heavy", 100, 1.0, complete=True)
        queue.begun("heavy", 100)
    light = put(queue, *(waiting("light") for _ in range(20)))
    queue.wake("a", SEATS + 8)
    assert (awake(light), awake(heavy[20:])) == ([*range(SEATS + 4)], [*range(4)])


@pytest.mark.parametrize("waited", [False, True])
def test_what_was_used_while_nobody_waited_is_not_paid_for(waited: bool) -> None:
    """Whoever comes later has its share from then on, and not all seats until it has had as much; nor who was here
    long ago."""
    queue = Queue({"old": 1.0, "new": 1.0})
    if waited:
        past = put(queue, waiting("old"), waiting("new"))
        queue.wake("a", 2)
        for event, tenant in zip(past, ("old", "new"), strict=True):
            queue.drop(event, tenant)
    for _ in range(1_000):
        queue.begun("old", 100)
        queue.ended("old", 100, 1.0, complete=True)
    old, new = (put(queue, *(waiting(tenant) for _ in range(50))) for tenant in ("old", "new"))
    queue.wake("a", 50)
    assert (len(awake(old)), len(awake(new))) == (25, 25)


def test_tokens_of_a_rate_are_asked_for_in_the_order_of_turns() -> None:
    """Else a long call would begin with the tokens that were taken for a short one."""
    queue = Queue({"heavy": 1.0, "light": 1.0})
    put(queue, *(waiting("heavy", 2000) for _ in range(2)), waiting("other", 1, "b"))
    put(queue, *(waiting("light", 100) for _ in range(30)))
    tokens = [each.expected_tokens for each in queue.wanting("a", in_turn=True)]
    assert tokens == [2000, *[100] * 20, 2000, *[100] * 10]
    assert sorted(each.expected_tokens for each in queue.wanting("a", in_turn=False)) == sorted(tokens)


@pytest.mark.parametrize("weights", [{"long": 1.0, "short": 1.0}, {"long": 1.0, "short": 3.0}])
def test_shares_of_tokens_follow_the_weights(weights: dict[str, float]) -> None:
    """Whatever the calls' sizes, while all wait. As in admission, so that neither undoes what the other does."""
    queue, rng, used = Queue(weights), Random(7), dict.fromkeys(weights, 0)
    usual = {"long": 2000, "short": 100}
    running: list[tuple[float, int, str, int]] = []
    calls: dict[asyncio.Event, str] = {}
    number = count()

    def offer(tenant: str) -> None:
        (event,) = put(queue, waiting(tenant, usual[tenant]))
        calls[event] = tenant

    for tenant in weights:
        for _ in range(30):
            offer(tenant)
    now = 0.0
    for _ in range(20_000):
        if len(running) >= SEATS:
            now, _, tenant, tokens = heapq.heappop(running)
            queue.ended(tenant, tokens, 1.0, complete=True)
            used[tenant] += tokens
        queue.wake("a", 1)
        (event,) = [event for event in calls if event.is_set()]
        tenant = calls.pop(event)
        queue.drop(event, tenant)
        queue.begun(tenant, usual[tenant])
        tokens = round(usual[tenant] * rng.uniform(0.5, 1.5))
        heapq.heappush(running, (now + tokens * rng.uniform(0.5, 1.5), next(number), tenant, tokens))
        offer(tenant)
    share = used["short"] / sum(used.values())
    assert share == pytest.approx(weights["short"] / sum(weights.values()), abs=0.01)


async def test_a_seat_goes_to_the_tenant_that_has_had_less() -> None:
    """At an endpoint with room for few, whose seats another tenant's calls have, and whose queue they fill."""
    weights = {"heavy": 1.0, "light": 1.0}
    servers = {"a": EndpointConfig(url="http://a", max_concurrency=SEATS)}
    endpoints, began = Endpoints(servers, weights=weights), list[str]()
    release: asyncio.Queue[None] = asyncio.Queue()

    async def call(task: str) -> None:
        search = Search(targets=(ModelTarget(name=None),), task_id=task, expected_tokens=10)
        route = await endpoints.ready(search)
        with endpoints.attempt(route.endpoint, task, 10) as open_call:
            began.append(task)
            await release.get()
            open_call.used_tokens = 10

    heavy = [asyncio.create_task(call(f"heavy.{number}")) for number in range(50)]
    await until(lambda: len(began) == SEATS)
    light = asyncio.create_task(call("light.0"))
    await until(lambda: endpoints.waiting() == {"any model": 47})
    release.put_nowait(None)
    await until(lambda: len(began) > SEATS)
    assert began[-1] == "light.0"
    for _ in range(50):
        release.put_nowait(None)
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(light, *heavy)
    assert began[SEATS + 1 :] == [f"heavy.{number}" for number in range(SEATS, 50)]
    await endpoints.allowances.close()
