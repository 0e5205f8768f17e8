import asyncio

import pytest
from structlog.testing import capture_logs

from fleet.config import Workers
from fleet.errors import AgentCallError
from workers.llm.endpoints import Card, Endpoint, Endpoints

LIMITS = Workers(breaker_failures=2, breaker_cool_down_s=10.0, breaker_longest_cool_down_s=10.0)
BROKEN = AgentCallError("ConnectionRefused", "", retryable=True)


class Time:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def fail(endpoints: Endpoints, endpoint: Endpoint, error: AgentCallError = BROKEN, times: int = 2) -> None:
    for _ in range(times):
        with pytest.raises(AgentCallError), endpoints.attempt(endpoint):
            raise error


def chosen(endpoints: Endpoints, model: str | None = None) -> set[str]:
    """All that are chosen in turn."""
    return {found.url for _ in range(4) if (found := endpoints.choose(model))}


def test_the_least_loaded_endpoint_is_chosen_and_ties_rotate() -> None:
    """Fewest open calls first."""
    endpoints = Endpoints(["http://a", "http://b"])
    assert chosen(endpoints) == {"http://a", "http://b"}
    with endpoints.attempt(endpoints.all[0]):
        assert chosen(endpoints) == {"http://b"}


def test_an_endpoint_known_to_lack_the_model_is_passed_over() -> None:
    """Endpoints need not serve the same models."""
    endpoints = Endpoints(["http://a", "http://b"])
    endpoints.all[0].models = (Card("small", 100),)
    assert chosen(endpoints, "large") == {"http://b"}


def test_a_retry_goes_elsewhere_if_it_can() -> None:
    """Even where the endpoint that failed has fewer open calls."""
    endpoints = Endpoints(["http://a", "http://b"])
    first, second = endpoints.all
    with endpoints.attempt(second):
        assert endpoints.choose(None, last=first) is second
        assert endpoints.another(None, than=first) is second
    fail(endpoints, second, times=5)
    assert endpoints.choose(None, last=first) is first
    assert endpoints.another(None, than=first) is None


def test_an_open_breaker_leaves_other_endpoints_alone() -> None:
    """And says in the log, and in the status, which one it is."""
    endpoints = Endpoints(["http://user:secret@a", "http://b"], LIMITS, Time())
    with capture_logs() as logs:
        fail(endpoints, endpoints.all[0])
    assert chosen(endpoints) == {"http://b"}
    assert [(status.url, status.breaker, status.opened) for status in endpoints.status()] == [
        ("http://a", "open", 1),
        ("http://b", "closed", 0),
    ]
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [("breaker.opened", "http://a")]


@pytest.mark.parametrize("error_type", ["RateLimited", "BadRequest", "Unauthorized", "NotFound", "ContextOverflow"])
def test_what_is_the_requests_fault_never_opens_a_breaker(error_type: str) -> None:
    """A server that refuses is a server that answers."""
    endpoints = Endpoints(["http://a"], LIMITS, Time())
    fail(endpoints, endpoints.all[0], AgentCallError(error_type, "", retryable=False), times=20)
    assert endpoints.status()[0].breaker == "closed"


@pytest.mark.parametrize("error_type", ["ServerError", "Timeout", "StreamStalled", "StreamTruncated", "TlsFailed"])
def test_every_failure_of_the_server_counts(error_type: str) -> None:
    """Before its first byte or after."""
    endpoints = Endpoints(["http://a"], LIMITS, Time())
    fail(endpoints, endpoints.all[0], AgentCallError(error_type, "", retryable=True))
    assert endpoints.status()[0].breaker == "open"


async def test_all_wait_for_one_probe_and_its_success_lets_all_go_on() -> None:
    """Nobody fails at once, nobody hammers."""
    clock = Time()
    endpoints = Endpoints(["http://a"], LIMITS, clock)
    (endpoint,) = endpoints.all
    fail(endpoints, endpoint)
    clock.now = 10.0
    assert await endpoints.ready(None) is endpoint
    with capture_logs() as logs, endpoints.attempt(endpoint):
        waiting = [asyncio.create_task(endpoints.ready(None)) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting) == [endpoint] * 5
    assert [entry["event"] for entry in logs] == ["breaker.closed"]


async def test_a_cancelled_probe_passes_its_turn_on() -> None:
    """Whoever waits next becomes the probe."""
    clock = Time()
    endpoints = Endpoints(["http://a"], LIMITS, clock)
    (endpoint,) = endpoints.all
    fail(endpoints, endpoint)
    clock.now = 10.0

    async def hang() -> None:
        with endpoints.attempt(endpoint):
            await asyncio.Event().wait()

    probe = asyncio.create_task(hang())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(endpoints.ready(None))
    await asyncio.sleep(0)
    probe.cancel()
    async with asyncio.timeout(10):
        assert await waiting is endpoint
    assert endpoints.status()[0].breaker == "half-open"
