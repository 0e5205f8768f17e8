"""When to try again, and what to ask then: policies that return a decision, and do not wait themselves."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

from msgspec import structs

from fleet.errors import AgentCallError
from fleet.messages import ChatMessage
from workers.llm.roles import Ask

BASE_S = 0.25
CAP_S = 8.0
MAX_REPAIRS = 1
"""How often a call asks for an invalid answer again, whatever else failed; `max_attempts` is for all other failures."""
MAX_HEDGES = 1
"""How often a call is made a second time beside a slow attempt."""
SEED_STRIDE = 1_000_003
"""Between tries whose answers were no good: the same seed would say the same again, the next one is another agent's."""


def most_attempts(max_attempts: int) -> int:
    """All that one delivery of a call may make."""
    return max_attempts + MAX_REPAIRS + MAX_HEDGES


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


def ask_again(ask: Ask, error: AgentCallError, said: str) -> Ask:
    """What to ask next time: the same after a failure of the server, something else after a bad answer."""
    match error.error_type:
        case "EmptyResponse":
            return structs.replace(ask, seed=_next(ask.seed))
        case "InvalidAnswer":
            form = "" if ask.answer_schema is None else ", in valid JSON only"
            complaint = f"That answer is not valid: {error.error.partition(': ')[2]}\nAnswer again{form}."
            return structs.replace(
                ask,
                seed=_next(ask.seed),
                messages=(
                    *ask.messages,
                    ChatMessage(role="assistant", content=said),
                    ChatMessage(role="user", content=complaint),
                ),
            )
        case _:
            return ask


def _next(seed: int | None) -> int | None:
    return None if seed is None else (seed + SEED_STRIDE) % 2**63


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
