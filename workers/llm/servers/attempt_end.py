"""Derives from the end of an attempt how its server is."""

from fleet.errors import AgentCallError
from workers.llm.failures import NO_ANSWER, AttemptError
from workers.llm.servers.breaker import Outcome


class OpenCall:
    """What an attempt has used, as far as is known when it ends."""

    used_tokens = 0


def answered_by(failure: AgentCallError | None, outcome: Outcome) -> bool | None:
    """Whether the server was there, as an attempt tells it; None: it does not."""
    if isinstance(failure, AttemptError):
        return failure.error_type not in NO_ANSWER
    return True if outcome == "succeeded" else None


def outcome_of(error: AgentCallError) -> Outcome:
    """What an attempt says of its endpoint: one that answers is well, whatever it says of the request."""
    if not isinstance(error, AttemptError):
        return "abandoned"
    if error.error_type == "ContextOverflow":
        return "abandoned"  # It was not even asked, perhaps.
    match error.fault:
        case "server":
            return "failed at it" if error.begun else "failed"
        case "request" | "busy":
            return "abandoned"
        case "endpoint" | "answer":
            return "succeeded"
