"""Defines `Task`: a valid request with every default filled in."""

from typing import Any

from fleet.messages import CacheMode, Message, Policy, Priority, SelectionMethod

DEFAULT_AGENTS = 3


class Task(Message, frozen=True, kw_only=True):
    """A valid request. It is compared when the same task id is requested again.

    `roles` and `models`: what the agents take in turn; empty: all take `role`, and the role's model.
    """

    task_description: str
    role: str = "DEV"
    num_agents: int = DEFAULT_AGENTS
    rounds: int = 1
    priority: Priority = "normal"
    rubric: str | dict[str, float] | None = None
    descriptions: dict[str, str] = {}
    """What criteria of the rubric mean."""
    requirements: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    timeout_seconds: float = 300.0
    policy: Policy = Policy()
    architect_rubric: str | dict[str, float] | None = None
    reference: str | None = None
    correlation: dict[str, str] = {}
    early_stop: bool = True
    seed: int | None = None
    roles: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    selection: SelectionMethod = "score"
    top_k: int = 3
    tie_margin: float = 0.0
    synthesis: bool = False
    output_schema: dict[str, Any] | None = None
    max_total_tokens: int | None = None
    accept_truncated: bool = False
    diversity: bool = False
    gate: bool = False
    judges_per_proposal: int | None = None
    second_reading: bool = False
    rationales: bool = True
    cache: CacheMode = "off"
