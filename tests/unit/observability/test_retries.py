"""What is tried again, and what is told of it."""

from collections.abc import Iterator

import pytest
import stamina.instrumentation
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from fleet.observability.health import Health
from fleet.observability.retries import RETRIES, again, report_retries


class Step:
    """Fails as often as told, with what it is given."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = [*errors]
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


@pytest.fixture
def told() -> Iterator[None]:
    report_retries()
    yield
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.mark.usefixtures("told")
async def test_every_retry_is_logged_and_counted() -> None:
    """By its name and its error. The metrics of each component have the count."""
    step = Step(OSError("away"), TimeoutError())
    with capture_logs() as logs:
        assert await again("thing.publish", step, on=(OSError, TimeoutError), first_s=0.0, longest_s=0.0) == 3
    assert [(event["event"], event["what"], event["tries"], event["error"]) for event in logs] == [
        ("nats.tried_again", "thing.publish", 1, "away"),
        ("nats.tried_again", "thing.publish", 2, "TimeoutError"),
    ]
    shown = Health("collector").scrape().decode()
    assert 'fleet_retries_total{error="OSError",what="thing.publish"} 1.0' in shown
    assert 'fleet_retries_total{error="TimeoutError",what="thing.publish"} 1.0' in shown


async def test_what_is_not_worth_a_retry_comes_at_once() -> None:
    """By type, or by a question."""
    step = Step(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await again("a", step, on=OSError, first_s=0.0, longest_s=0.0)
    with pytest.raises(OSError, match="full"):
        await again("a", Step(OSError("full")), on=lambda error: "full" not in str(error), first_s=0.0, longest_s=0.0)
    assert step.calls == 1


async def test_the_last_error_comes_when_the_attempts_are_used_up() -> None:
    """The number of attempts is the whole number."""
    step = Step(OSError("first"), OSError("second"), OSError("third"))
    with pytest.raises(OSError, match="second"):
        await again("a", step, on=OSError, first_s=0.0, longest_s=0.0, attempts=2)
    assert step.calls == 2


def test_the_count_stands_in_more_than_one_registry() -> None:
    """It belongs to the process, which may have several."""
    for _ in range(2):
        CollectorRegistry().register(RETRIES)
