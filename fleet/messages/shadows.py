"""What a terminal event says of calls that failed, and of the shadows beside a council."""

from fleet.messages.base import Message, Phase
from fleet.messages.error_types import SentErrorType
from fleet.messages.usage import ModelUsage, TotalUsage


class FailedCall(Message, frozen=True, kw_only=True):
    """One call that ended in error, the deadline included."""

    agent_id: str
    phase: Phase
    error: str
    error_type: SentErrorType
    round: int = 0


class ShadowReading(Message, frozen=True, kw_only=True):
    """How one reviewer scored first texts, those of shadows among them. `scores`: 0 … 10 by author, weighted means.
    `model`: the one that scored.
    """

    reviewer_id: str
    scores: dict[str, float]
    model: str = ""


class ShadowReport(Message, frozen=True, kw_only=True):
    """What the shadows of a council came to, and what they cost: nothing of it is in the other fields of the event.

    `missing`: shadows without a proposal. `failed_calls`: calls of shadows, or for them, that ended in error or had not
    ended in time. `readings`: the first texts of council and shadows, in one prompt; empty where nobody scored them.
    """

    agents: tuple[str, ...]
    missing: tuple[str, ...] = ()
    failed_calls: tuple[FailedCall, ...] = ()
    readings: tuple[ShadowReading, ...] = ()
    usage: TotalUsage = TotalUsage()
    usage_by_model: dict[str, ModelUsage] = {}
    cost: float | None = None
