"""Tries again what NATS did not take or answer. Every retry is a line in the log, and a count in the metrics."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina
import structlog
from prometheus_client import Counter
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRIES = Counter(
    "fleet_retries", "Steps tried again because NATS did not take or answer them", ("what", "error"), registry=None
)
"""Of this process: its metrics show it (`metrics`)."""


async def again(
    what: str,
    step: Callable[[], Awaitable[T]],
    *,
    on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool],
    first_s: float,
    longest_s: float,
    within_s: float | None = None,
    attempts: int | None = None,
) -> T:
    """What `step` returns, once it raises none of `on`. Raises its last error after `within_s`, or so many attempts.

    The pauses double, from `first_s` to `longest_s`, and are spread, so that processes do not try all at once.
    """
    tries = stamina.retry_context(
        on=on, attempts=attempts, timeout=within_s, wait_initial=first_s, wait_max=longest_s, wait_jitter=first_s
    )
    async for attempt in tries.with_name(what, (), {}):
        with attempt:
            return await step()
    raise AssertionError("stamina raises the last error")


def report_retries() -> None:
    """From now on, in this process. stamina's own hooks would show the arguments of what is tried again."""
    set_on_retry_hooks((_tell,))


def _tell(details: RetryDetails) -> None:
    error = details.caused_by
    RETRIES.labels(details.name, type(error).__name__).inc()
    log.warning(
        "nats.tried_again",
        what=details.name,
        tries=details.retry_num,
        error=str(error) or type(error).__name__,
        again_in_s=round(details.wait_for, 2),
    )
