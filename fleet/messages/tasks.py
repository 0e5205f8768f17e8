"""Shows a request as it was accepted: in the form in which it was sent, every default filled in."""

from typing import Any, Literal

from fleet.messages.base import ContentRef, Message, Priority
from fleet.messages.calls import Policy

SelectionMethod = Literal["score", "vote", "architect", "checks"]
CacheMode = Literal["off", "use", "refresh"]


class AcceptedConstraints(Message, frozen=True, kw_only=True):
    """`constraints` as accepted. `rubric`: the one that counted, the request's, its role's, or the default one;
    `descriptions`: what its criteria mean.
    """

    rubric: str | dict[str, float]
    requirements: tuple[str, ...]
    metadata: dict[str, Any]
    timeout_seconds: float
    policy: Policy
    architect_rubric: str | dict[str, float] | None
    descriptions: dict[str, str] = {}
    reference: str | None = None


class AcceptedOptions(Message, frozen=True, kw_only=True):
    """`options` as accepted. Null: none, as in a request, so that it can be sent again."""

    early_stop: bool
    seed: int | None
    roles: tuple[str, ...] | None
    models: tuple[str, ...] | None
    selection: SelectionMethod
    top_k: int
    tie_margin: float
    synthesis: bool
    output_schema: dict[str, Any] | None
    max_total_tokens: int | None
    accept_truncated: bool
    diversity: bool = False
    gate: bool = False
    judges_per_proposal: int | None = None
    second_reading: bool = False
    rationales: bool = True
    cache: CacheMode = "off"


class AcceptedTask(Message, frozen=True, kw_only=True):
    """The request of a deliberation as it was accepted.

    `content_ref`: where the whole of it lies if it did not fit the message; then `task_description`, `requirements`,
    `metadata`, `policy`, `reference` and `output_schema` are empty here.
    """

    task_id: str
    task_description: str
    role: str
    num_agents: int
    rounds: int
    constraints: AcceptedConstraints
    options: AcceptedOptions
    correlation: dict[str, str]
    priority: Priority = "normal"
    content_ref: ContentRef | None = None
