"""Defines the fields of a request as clients send them, with their bounds."""

from typing import Annotated, Any

from msgspec import Meta

from fleet.jetstream.lifetimes import LONGEST_DELIBERATION_S
from fleet.messages import CacheMode, Message, Priority, SelectionMethod

MAX_TASK_CHARACTERS = 65_536
MAX_AGENTS = 16
MAX_REQUIREMENTS = 200
"""Each review says of each one whether it is met."""
TASK_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}\Z"

TaskId = Annotated[str, Meta(pattern=TASK_ID_PATTERN)]
Weight = Annotated[float, Meta(gt=0, le=100)]
WeightedRubric = str | Annotated[dict[str, Weight], Meta(max_length=20)]
Description = Annotated[str, Meta(min_length=1, max_length=1000)]
Patterns = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1000)], ...], Meta(max_length=50)]
Names = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(min_length=1, max_length=MAX_AGENTS)
]


class RequestCriterion(Message, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A criterion of the rubric with what it means."""

    weight: Weight
    description: Description | None = None


Rubric = str | Annotated[dict[str, Weight | RequestCriterion], Meta(max_length=20)]


class RequestPolicy(Message, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`constraints.policy` as sent: regular expressions."""

    required: Patterns | None = None
    forbidden: Patterns | None = None


class Constraints(Message, frozen=True, kw_only=True):
    """`constraints` as sent: null means absent."""

    rubric: Rubric | None = None
    requirements: Annotated[tuple[str, ...], Meta(max_length=MAX_REQUIREMENTS)] | None = None
    metadata: dict[str, Any] | None = None
    timeout_seconds: Annotated[float, Meta(ge=1, le=int(LONGEST_DELIBERATION_S))] | None = None
    policy: RequestPolicy | None = None
    architect_rubric: WeightedRubric | None = None
    reference: Annotated[str, Meta(max_length=65_536)] | None = None


class Options(Message, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`options` as sent. An unknown key is an error: a typo here costs GPU time."""

    early_stop: bool | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    roles: Names | None = None
    models: Names | None = None
    selection: SelectionMethod | None = None
    top_k: Annotated[int, Meta(ge=2, le=MAX_AGENTS)] | None = None
    tie_margin: Annotated[float, Meta(ge=0, le=10)] | None = None
    synthesis: bool | None = None
    output_schema: dict[str, Any] | None = None
    max_total_tokens: Annotated[int, Meta(ge=1)] | None = None
    accept_truncated: bool | None = None
    diversity: bool | None = None
    gate: bool | None = None
    judges_per_proposal: Annotated[int, Meta(ge=2, le=MAX_AGENTS - 1)] | None = None
    second_reading: bool | None = None
    rationales: bool | None = None
    cache: CacheMode | None = None


class DeliberationRequested(Message, frozen=True, kw_only=True):
    """`deliberation.requested` as sent: null means absent."""

    task_description: Annotated[str, Meta(min_length=1, max_length=MAX_TASK_CHARACTERS)]
    task_id: TaskId | None = None
    role: str | None = None
    num_agents: Annotated[int, Meta(ge=1, le=MAX_AGENTS)] | None = None
    rounds: Annotated[int, Meta(ge=0, le=5)] | None = None
    priority: Priority | None = None
    constraints: Constraints | None = None
    correlation: dict[str, str] | None = None
    options: Options | None = None
