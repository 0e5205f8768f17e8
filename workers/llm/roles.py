"""A role's profile and a request become what the model is asked."""

from typing import Any

from msgspec import Struct, structs

from fleet.config import Settings
from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, Phase
from fleet.times import from_rfc3339


class Ask(Struct, frozen=True, kw_only=True):
    """One call as the model's client needs it. `model` None: what the server lists first; `deadline_ms` since 1970."""

    role: str
    messages: tuple[ChatMessage, ...]
    model: str | None
    temperature: float
    max_tokens: int
    context_window: int | None
    seed: int | None
    deadline_ms: int
    phase: Phase = "propose"
    answer_schema: dict[str, Any] | None = None


def resolve(settings: Settings, request: AgentRequested) -> Ask:
    """The request's model goes before the role's.

    Raises `AgentCallError` (UnknownRole) and, for a deadline that is no time, ValueError.
    """
    profile = settings.roles.get(request.role)
    if profile is None:
        known = ", ".join(sorted(settings.roles)) or "none"
        raise AgentCallError(
            "UnknownRole", f"role {request.role} has no table [roles.{request.role}]; known: {known}", retryable=False
        )
    return Ask(
        role=request.role,
        messages=with_persona(request.messages, profile.persona),
        model=request.model or profile.model or settings.vllm_model,
        temperature=profile.temperature,
        max_tokens=profile.max_tokens,
        # A role's window is that of the role's model; of another one the server knows.
        context_window=profile.context_window if request.model in (None, profile.model) else None,
        seed=request.seed,
        deadline_ms=from_rfc3339(request.deadline_at),
        phase=request.phase,
        answer_schema=request.answer_schema,
    )


def with_persona(messages: tuple[ChatMessage, ...], persona: str) -> tuple[ChatMessage, ...]:
    """The persona ends the last user message: all before it is the prefix that calls of a deliberation share."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            spoken = structs.replace(messages[index], content=f"{messages[index].content}\n\n{persona}")
            return (*messages[:index], spoken, *messages[index + 1 :])
    return (*messages, ChatMessage(role="user", content=persona))
