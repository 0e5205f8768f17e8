"""Decides when to try again, and what to ask then: policies that return a decision, and do not wait themselves.

What has not begun (nobody listens, no room, no key for this model there) costs nothing: it is tried again for as long
as the deadline carries, with growing pauses. What the model may have worked on is tried `max_attempts` times.
"""

from collections.abc import Sequence
from random import Random

from msgspec import Struct, structs

from fleet.messages import ChatMessage
from workers.llm.failures import AttemptError
from workers.llm.requests import ModelRequest
from workers.llm.servers.dialects import schema_in_words

BASE_S = 0.25
CAP_S = 8.0
MAX_REPAIRS = 1
"""How often a call asks for an invalid answer again, whatever else failed; `max_attempts` is for all other failures."""
MAX_HEDGES = 1
"""How often a call is made a second time beside a slow attempt."""
MAX_ENLARGED = 1
"""How often a call whose answer was cut off is made again with more room."""
ATTEMPTS_PER_DELIVERY = 1000
"""What one delivery of a call may number: attempts that had not begun are bounded by time, not by a count."""
SEED_STRIDE = 1_000_003
"""Between tries whose answers were no good: the same seed would say the same again, the next one is another agent's."""
MORE_ROOM = 2
MAX_SHOWN_CHARACTERS = 20_000
"""An invalid answer longer than this is not shown to the model again: it would fill the window once more."""


class Step(Struct, frozen=True):
    """What comes next: a wait, and a request."""

    wait_s: float
    request: ModelRequest


def next_step(
    errors: Sequence[AttemptError],
    request: ModelRequest,
    answer: str,
    *,
    max_tokens: int,
    max_attempts: int,
    remaining_s: float,
    elsewhere: bool,
    rng: Random,
) -> Step | None:
    """After the last of a call's `errors`, whose attempt said `said` and had room for `max_tokens`; None: give up now.

    `elsewhere`: whether an endpoint is left that has not failed this call since it last waited.
    """
    error = errors[-1]
    if error.fault == "request":
        return None
    if error.fault == "endpoint":
        return Step(0.0, request) if elsewhere else None
    if error.fault == "answer":
        return _after_an_answer(errors, request, answer, max_tokens, max_attempts)
    failures = [each for each in errors if each.fault == "server" and each.begun]
    if error.begun and len(failures) >= max_attempts:
        return None
    if elsewhere:
        return Step(0.0, request)
    in_a_row = len(failures) if error.begun else _unbegun_in_a_row(errors)
    jitter_s = rng.uniform(0, min(CAP_S, BASE_S * 2 ** min(in_a_row - 1, 16)))
    wait_s = (error.retry_after_s or 0.0) + jitter_s
    return Step(wait_s, request) if wait_s < remaining_s else None


def _unbegun_in_a_row(errors: Sequence[AttemptError]) -> int:
    count = 0
    for error in reversed(errors):
        if error.begun or error.fault not in ("server", "busy"):
            break
        count += 1
    return count


def _after_an_answer(
    errors: Sequence[AttemptError], request: ModelRequest, answer: str, max_tokens: int, max_attempts: int
) -> Step | None:
    """Something else is asked: the same again would be answered the same."""
    error, kinds = errors[-1], [each.error_type for each in errors]
    match error.error_type:
        case "InvalidAnswer" if kinds.count("InvalidAnswer") <= MAX_REPAIRS:
            return Step(0.0, _repair(request, error, answer))
        case "EmptyResponse" if kinds.count("EmptyResponse") < max_attempts:
            return Step(0.0, structs.replace(request, seed=_next(request.seed)))
        case "Truncated" if kinds.count("Truncated") <= MAX_ENLARGED and not error.retryable:
            return Step(0.0, _with_more_room(request, max_tokens))
        case "Truncated" if kinds.count("Truncated") < max_attempts and error.retryable:
            return Step(0.0, structs.replace(request, seed=_next(request.seed)))
        case _:
            return None


def _with_more_room(request: ModelRequest, max_tokens: int) -> ModelRequest:
    """`max_tokens` is where the answer was cut: the window may have left less than was asked for."""
    return structs.replace(request, max_tokens=MORE_ROOM * request.max_tokens, more_than=max_tokens)


def _repair(request: ModelRequest, error: AttemptError, answer: str) -> ModelRequest:
    """The question goes on where the answer ended, with what is wrong with it. An answer that is very long (a loop, as
    a rule) is not shown again.
    """
    what = error.error.partition(": ")[2] or error.error
    form = "" if request.answer_schema is None else f" {schema_in_words(request.answer_schema)}"
    complaint = f"That answer is not valid: {what}\nAnswer again.{form}"
    shown = answer if answer.strip() and len(answer) <= MAX_SHOWN_CHARACTERS else "(an answer that was not valid)"
    return structs.replace(
        request,
        seed=_next(request.seed),
        messages=(
            *request.messages,
            ChatMessage(role="assistant", content=shown),
            ChatMessage(role="user", content=complaint),
        ),
    )


def _next(seed: int | None) -> int | None:
    return None if seed is None else (seed + SEED_STRIDE) % 2**63
