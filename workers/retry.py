"""When to try again: a policy that returns a decision, and does not wait itself."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

from fleet.errors import AgentCallError

BASE_S = 0.25
CAP_S = 8.0
MAX_REPAIRS = 1
"""How often a call asks for an invalid answer again, whatever else failed; `max_attempts` is for all other failures."""


def wait_before_retry(
    errors: Sequence[AgentCallError], *, max_attempts: int, remaining_s: float, rng: Random
) -> float | None:
    """Seconds to wait after the last of a call's `errors`, or None: give up now.

    Exponential with full jitter. What the server asked for is kept, plus the jitter, so that not all come back at once.
    """
    error = errors[-1]
    invalid = sum(_is_invalid(each) for each in errors)
    if _is_invalid(error):
        return 0.0 if invalid <= MAX_REPAIRS else None
    failures = len(errors) - invalid
    if not error.retryable or failures >= max_attempts:
        return None
    jitter_s = rng.uniform(0, min(CAP_S, BASE_S * 2 ** min(failures - 1, 16)))
    wait_s = (error.retry_after_s or 0.0) + jitter_s
    return wait_s if wait_s < remaining_s else None


def _is_invalid(error: AgentCallError) -> bool:
    return error.error_type == "InvalidAnswer"


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds, from either form of `Retry-After`; None for what is neither. A date that is over is 0."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return None
        return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
