import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from fleet.config import Workers
from fleet.model_servers import EndpointConfig
from tests.support.waiting import WITHIN_S
from workers.llm.failures import AttemptError
from workers.llm.requests import ModelTarget
from workers.llm.servers.allowances import OwnLedger
from workers.llm.servers.endpoint import REMEMBERED_MODELS, Endpoint, ModelCard
from workers.llm.servers.endpoints import Endpoints
from workers.llm.servers.search import Nowhere, Search

LIMITS = Workers(breaker_failures=2, breaker_cool_down_s=10.0, breaker_longest_cool_down_s=10.0)
BROKEN = AttemptError("ConnectionRefused", "", fault="server", begun=False)
FAILED_AT_IT = AttemptError("ServerError", "", fault="server")


class Time:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def servers(*urls: str, **more: Any) -> dict[str, EndpointConfig]:
    return {url.rpartition("/")[2]: EndpointConfig(url=url, **more) for url in urls}


def two(clock: Time | None = None, **more: Any) -> Endpoints:
    return Endpoints(servers("http://a", "http://b", **more), LIMITS, clock or Time())


def search(model: str | None = None, *others: ModelTarget, **more: Any) -> Search:
    return Search(targets=(ModelTarget(name=model), *others), **more)


def fail(
    endpoints: Endpoints,
    endpoint: Endpoint,
    error: AttemptError = BROKEN,
    times: int = 2,
    task: str = "",
    model: str | None = None,
) -> None:
    for _ in range(times):
        with pytest.raises(AttemptError), endpoints.attempt(endpoint, task, model=model):
            raise error


def chosen(endpoints: Endpoints, given: Search | None = None) -> str | None:
    route = endpoints.choose(given or search())
    return None if route is None else route.endpoint.name


async def test_without_a_task_the_least_loaded_endpoint_is_chosen_and_ties_rotate() -> None:
    """Fewest open calls first."""
    endpoints = two()
    assert {(await endpoints.ready(search())).endpoint.name for _ in range(4)} == {"a", "b"}
    with endpoints.attempt(endpoints.all[0]):
        assert chosen(endpoints) == "b"


async def test_the_calls_of_a_task_go_to_one_endpoint_while_it_has_room() -> None:
    """Different tasks to different ones; one that is far busier than the others is passed over."""
    endpoints = two()
    own = {task: chosen(endpoints, search(task_id=task)) for task in map(str, range(40))}
    assert set(own.values()) == {"a", "b"}
    assert own == {task: chosen(endpoints, search(task_id=task)) for task in own}
    first = (await endpoints.ready(search(task_id="0"))).endpoint
    first.open_calls = 3
    assert chosen(endpoints, search(task_id="0")) == own["0"]
    first.open_calls = 30
    assert chosen(endpoints, search(task_id="0")) != own["0"]


def test_a_task_begins_at_the_less_loaded_of_its_first_two_endpoints() -> None:
    """Nothing of it is in a cache yet."""
    endpoints = two()
    own = {task: chosen(endpoints, search(task_id=task)) for task in map(str, range(20))}
    endpoints.all[0].open_calls = 3
    assert {chosen(endpoints, search(task_id=task)) for task in own} == {"b"}


def test_where_an_endpoint_goes_away_only_its_own_tasks_move() -> None:
    """And they come back to it."""
    endpoints = Endpoints(servers("http://a", "http://b", "http://c"), LIMITS, Time())
    tasks = [str(number) for number in range(60)]
    before = {task: chosen(endpoints, search(task_id=task)) for task in tasks}
    fail(endpoints, endpoints.all[0])
    after = {task: chosen(endpoints, search(task_id=task)) for task in tasks}
    assert {task for task in tasks if before[task] != after[task]} == {task for task in tasks if before[task] == "a"}


def test_an_endpoint_known_to_lack_the_model_is_passed_over() -> None:
    """Endpoints need not serve the same models; where every list lacks it, the servers have the last word."""
    endpoints = two()
    first, second = endpoints.all
    first.models = (ModelCard("small", 100),)
    first.open_calls = second.open_calls + 0
    assert {chosen(endpoints, search("large")) for _ in range(4)} == {"b"}
    second.models = ()
    assert chosen(endpoints, search("large")) in ("a", "b")


def test_what_the_settings_say_of_models_counts() -> None:
    """Whatever a list says; a call that no endpoint is for has nowhere to go."""
    endpoints = Endpoints(servers("http://a", models=("large",)), LIMITS, Time())
    endpoints.all[0].models = ()
    assert chosen(endpoints, search("large")) == "a"
    with pytest.raises(Nowhere):
        endpoints.choose(search("small"))


def test_a_retry_goes_elsewhere_if_it_can() -> None:
    """Even where the endpoint that failed has fewer open calls."""
    endpoints = two()
    first, second = endpoints.all
    with endpoints.attempt(second):
        assert chosen(endpoints, search(failed=first)) == "b"
        assert endpoints.another(search(failed=first)) is not None
    fail(endpoints, second, times=5)
    assert chosen(endpoints, search(failed=first)) == "a"
    assert endpoints.another(search(failed=first)) is None


def test_an_endpoint_that_refuses_is_not_chosen_for_being_idle() -> None:
    """For the model that it refused, for a while; the only one is asked all the same."""
    clock = Time()
    endpoints = two(clock)
    first, second = endpoints.all
    first.refused("m", AttemptError("Unauthorized", "no", fault="endpoint"), 0.0)
    second.open_calls = 100
    assert chosen(endpoints, search("m")) == "b"
    assert chosen(endpoints, search("other")) == "a"
    assert endpoints.status()[0].refuses == {"m": "no"}
    fail(endpoints, second, model="m")
    assert chosen(endpoints, search("m")) == "a"
    clock.now = 1000.0
    assert endpoints.status()[0].refuses == {}


def test_a_pair_that_refused_this_call_is_not_asked_again() -> None:
    """And when all have, there is nowhere to go."""
    endpoints = two()
    assert chosen(endpoints, search("m", refused={("a", "m")})) == "b"
    with pytest.raises(Nowhere):
        endpoints.choose(search("m", refused={("a", "m"), ("b", "m")}))


def test_a_fallback_is_asked_while_no_endpoint_of_the_model_can() -> None:
    """In its order; a failure in the midst of an answer is no reason."""
    endpoints = Endpoints({**servers("http://a", models=("m",)), **servers("http://b", models=("n",))}, LIMITS, Time())
    first, _ = endpoints.all
    given = search("m", ModelTarget(name="n"))
    assert chosen(endpoints, given) == "a"
    assert chosen(endpoints, search("m", ModelTarget(name="n"), failed=first)) == "a"
    assert chosen(endpoints, search("m", ModelTarget(name="n"), failed=first, unreachable=True)) == "b"
    fail(endpoints, first, model="m")
    assert chosen(endpoints, given) == "b"


def test_a_model_that_fails_behind_a_proxy_blocks_no_other() -> None:
    """Each has a breaker of its own there; the endpoint is open when all are."""
    endpoints = Endpoints(servers("http://proxy"), LIMITS, Time())
    (proxy,) = endpoints.all
    with endpoints.attempt(proxy, model="sound"):
        fail(endpoints, proxy, times=20, model="dead")
    assert (chosen(endpoints, search("dead")), chosen(endpoints, search("sound"))) == (None, "proxy")
    assert endpoints.status()[0].breaker == "closed"
    fail(endpoints, proxy, times=20, model="sound")
    assert (chosen(endpoints, search("sound")), endpoints.status()[0].breaker) == (None, "open")


def test_no_more_breakers_are_kept_than_there_are_models() -> None:
    """Requests may name any."""
    endpoints = two()
    for number in range(2 * REMEMBERED_MODELS):
        endpoints.choose(search(f"m-{number}"))
    assert len(endpoints.all[0]._breakers) <= REMEMBERED_MODELS


def test_a_pause_that_was_asked_for_holds_for_all_calls() -> None:
    """Others take them meanwhile."""
    clock = Time()
    endpoints = two(clock)
    endpoints.all[0].pause(8.0, clock.now)
    assert {chosen(endpoints) for _ in range(4)} == {"b"}
    endpoints.all[1].pause(3.0, clock.now)
    assert chosen(endpoints) is None
    clock.now = 3.0
    assert chosen(endpoints) == "b"


def test_an_open_breaker_leaves_other_endpoints_alone() -> None:
    """And says in the log, and in the status, which one it is."""
    endpoints = Endpoints(servers("http://user:secret@a", "http://b"), LIMITS, Time())
    with capture_logs() as logs:
        fail(endpoints, endpoints.all[0])
    assert chosen(endpoints) == "b"
    assert [(status.url, status.breaker, status.opened) for status in endpoints.status()] == [
        ("http://a", "open", 1),
        ("http://b", "closed", 0),
    ]
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [("breaker.opened", "http://a")]


@pytest.mark.parametrize("fault", ["busy", "endpoint", "request", "answer"])
def test_what_is_the_requests_fault_never_opens_a_breaker(fault: Any) -> None:
    """A server that refuses is a server that answers."""
    endpoints = two()
    fail(endpoints, endpoints.all[0], AttemptError("X", "", fault=fault), times=20)
    assert endpoints.status()[0].breaker == "closed"


def test_one_task_that_a_server_fails_at_does_not_open_its_breaker() -> None:
    """Several do, unless the server did well between them."""
    endpoints = two()
    first, second = endpoints.all
    fail(endpoints, first, FAILED_AT_IT, times=20, task="poisoned")
    assert first.breaker_state(0.0) == "closed"
    fail(endpoints, first, FAILED_AT_IT, times=1, task="another")
    assert first.breaker_state(0.0) == "open"
    for number in range(20):
        fail(endpoints, second, FAILED_AT_IT, times=1, task=str(number))
        with endpoints.attempt(second):
            pass
    assert second.breaker_state(0.0) == "closed"


async def test_a_suspect_leaves_the_probe_to_others() -> None:
    """A call that servers fail at would only open the breaker again."""
    clock = Time()
    endpoints = Endpoints(servers("http://a"), LIMITS, clock)
    fail(endpoints, endpoints.all[0])
    sound = asyncio.create_task(endpoints.ready(search()))
    await asyncio.sleep(0)
    clock.now = 10.0
    assert endpoints.choose(search(suspect=True)) is None
    async with asyncio.timeout(WITHIN_S):
        assert (await sound).endpoint.name == "a"
    assert chosen(endpoints, search(suspect=True)) == "a"


async def test_all_wait_for_one_probe_and_its_success_lets_all_go_on() -> None:
    """Nobody fails at once, nobody hammers."""
    clock = Time()
    endpoints = Endpoints(servers("http://a"), LIMITS, clock)
    (endpoint,) = endpoints.all
    fail(endpoints, endpoint)
    clock.now = 10.0
    assert (await endpoints.ready(search())).endpoint is endpoint
    with capture_logs() as logs, endpoints.attempt(endpoint):
        waiting = [asyncio.create_task(endpoints.ready(search())) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
    async with asyncio.timeout(WITHIN_S):
        assert [route.endpoint for route in await asyncio.gather(*waiting)] == [endpoint] * 5
    assert [entry["event"] for entry in logs] == ["breaker.closed"]


async def test_a_cancelled_probe_passes_its_turn_on() -> None:
    """Whoever waits next becomes the probe."""
    clock = Time()
    endpoints = Endpoints(servers("http://a"), LIMITS, clock)
    (endpoint,) = endpoints.all
    fail(endpoints, endpoint)
    clock.now = 10.0

    async def hang() -> None:
        with endpoints.attempt(endpoint):
            await asyncio.Event().wait()

    probe = asyncio.create_task(hang())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(endpoints.ready(search()))
    await asyncio.sleep(0)
    probe.cancel()
    async with asyncio.timeout(WITHIN_S):
        assert (await waiting).endpoint is endpoint
    assert endpoints.status()[0].breaker == "half-open"


async def test_no_more_calls_are_open_than_the_endpoint_may_have() -> None:
    """The next one waits, and begins when one has ended; who has left does not count."""
    endpoints = Endpoints(servers("http://a", max_concurrency=2), LIMITS)
    release, full, most = asyncio.Event(), asyncio.Event(), 0

    async def call() -> None:
        nonlocal most
        route = await endpoints.ready(search(expected_tokens=10))
        with endpoints.attempt(route.endpoint):
            most = max(most, route.endpoint.open_calls)
            if most == 2:
                full.set()
            await release.wait()

    calls = [asyncio.create_task(call()) for _ in range(6)]
    async with asyncio.timeout(WITHIN_S):
        await full.wait()
        calls.pop().cancel()
        release.set()
        await asyncio.gather(*calls)
    assert most == 2
    await endpoints.allowances.close()


async def test_a_call_waits_for_its_own_endpoint_while_that_may_have_room() -> None:
    """An endpoint at hand would cost the prefix cache of the deliberation."""
    endpoints = two(max_concurrency=8)
    homes = {}
    for task in map(str, range(20)):
        homes[task] = (await endpoints.ready(search(task_id=task))).endpoint
    for task, home in homes.items():
        assert (await endpoints.ready(search(task_id=task))).endpoint is home
    await endpoints.allowances.close()


async def test_a_call_that_its_own_endpoint_has_refused_begins_where_there_is_room() -> None:
    """And does not go to and fro between the two: another worker has all seats of its own, and keeps them."""
    ledger, clock = OwnLedger(), Time()
    first, second = two(clock, max_concurrency=2), two(clock, max_concurrency=2)
    for number, each in enumerate((first, second)):
        each.allowances.share(ledger, f"w{number}")
    home = (await first.ready(search(task_id="t"))).endpoint
    with first.attempt(home):
        assert (await first.ready(search(task_id="t"))).endpoint is home
        with first.attempt(home):
            async with asyncio.timeout(WITHIN_S):
                routes = await asyncio.gather(*(second.ready(search(task_id="t")) for _ in range(2)))
    assert {route.endpoint.name for route in routes} == {"a", "b"} - {home.name}
    for each in (first, second):
        await each.allowances.close()


def test_a_status_says_why_an_endpoint_is_sick() -> None:
    """The last failure that was the server's, and how long ago; what a model did wrong is none."""
    clock = Time()
    endpoints = two(clock)
    sick, well = endpoints.all
    fail(endpoints, sick, AttemptError("ServerError", "HTTP 503: " + "x" * 999, fault="server"))
    fail(endpoints, well, AttemptError("InvalidAnswer", "no JSON", fault="answer"))
    clock.now = 7.0
    status, other = endpoints.status()
    assert (status.last_error_type, status.last_error_age_s) == ("ServerError", 7.0)
    assert status.last_error is not None
    assert status.last_error.startswith("HTTP 503: ")
    assert len(status.last_error) <= 200
    assert other.last_error_type is None
