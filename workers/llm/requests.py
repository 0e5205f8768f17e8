"""Turns a role's profile and an agent's request into what a model is asked, and which models may answer."""

from typing import Any

from msgspec import Struct, structs

from fleet.config import RoleProfile, Settings
from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, Judge, JudgeKind, Phase
from fleet.messages.trace_ids import TraceContext
from fleet.model_servers import only_for_judges
from fleet.times import from_rfc3339
from workers.llm.reading.control_tokens import without_control_tokens

JUDGING = frozenset({"critique", "score", "vote", "compare", "choose"})


class ModelTarget(Struct, frozen=True, kw_only=True):
    """A model that may answer. `name`: what servers call it, None: what the server lists first; `endpoints` None: all.
    `adapter`: where a server finds it that has its `base` only.

    `stands_in`: another one was asked for; the text says which.
    """

    name: str | None = None
    endpoints: frozenset[str] | None = None
    base: str | None = None
    adapter: str | None = None
    window: int | None = None
    stands_in: str = ""


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One call as the model's client needs it. `targets` in the order of preference; `deadline_ms` since 1970."""

    role: str
    messages: tuple[ChatMessage, ...]
    targets: tuple[ModelTarget, ...] = (ModelTarget(),)
    temperature: float
    max_tokens: int
    seed: int | None
    deadline_ms: int
    phase: Phase = "propose"
    answer_schema: dict[str, Any] | None = None
    accept_truncated: bool = False
    more_than: int = 0
    """Tokens at which the answer was cut off before: asked again with no more it would be cut again."""
    task_id: str = ""
    trace: TraceContext | None = None
    """The span of this call."""
    judge: JudgeKind | None = None
    """A judge is asked, by this route: the answer is a number."""

    @property
    def asks_for_odds(self) -> bool:
        """Whether the server is to tell what other scores the model might have written."""
        return self.phase == "score" and self.judge is None


def resolve(settings: Settings, request: AgentRequested, trace: TraceContext | None = None) -> ModelRequest:
    """The request's model goes before the role's.

    Raises `AgentCallError` (UnknownRole) and, for a deadline that is no time, ValueError.
    """
    if request.judge is not None:
        return _of_judge(settings, request, request.judge, trace)
    profile = settings.roles.get(request.role)
    if profile is None:
        known = ", ".join(sorted(settings.roles)) or "none"
        raise AgentCallError(
            "UnknownRole", f"role {request.role} has no table [roles.{request.role}]; known: {known}", retryable=False
        )
    return ModelRequest(
        role=request.role,
        messages=with_persona(without_control_tokens(request.messages), _persona(profile, request.phase)),
        targets=_targets(settings, profile, request),
        temperature=_of_phase(profile, request.phase, "temperature"),
        max_tokens=_of_phase(profile, request.phase, "max_tokens"),
        seed=request.seed,
        deadline_ms=from_rfc3339(request.deadline_at),
        phase=request.phase,
        answer_schema=request.answer_schema,
        accept_truncated=request.accept_truncated,
        task_id=request.task_id,
        trace=trace,
    )


def _of_judge(settings: Settings, request: AgentRequested, judge: Judge, trace: TraceContext | None) -> ModelRequest:
    """Nothing of a role counts, and no other model stands in: its numbers would be on another scale."""
    model = settings.models.get(judge.model or "")
    endpoints = (judge.endpoint,) if judge.endpoint else model.endpoints if model else None
    return ModelRequest(
        role=request.role,
        messages=without_control_tokens(request.messages),
        targets=(
            ModelTarget(
                name=(model.name if model else None) or judge.model,
                endpoints=frozenset(endpoints) if endpoints else None,
            ),
        ),
        temperature=0.0,
        max_tokens=1,
        seed=None,
        deadline_ms=from_rfc3339(request.deadline_at),
        phase=request.phase,
        task_id=request.task_id,
        trace=trace,
        judge=judge.kind,
    )


def _targets(settings: Settings, profile: RoleProfile, request: AgentRequested) -> tuple[ModelTarget, ...]:
    """The model, its fallbacks in their order (theirs after them), and last the base of an adapter."""
    of_role = (profile.judge_model or profile.usual_model) if request.phase in JUDGING else profile.usual_model
    model_name = request.model or of_role or settings.vllm_model
    # A role's window is that of the role's model; of another one the server knows.
    window = profile.context_window if request.model in (None, of_role) else None
    taken = only_for_judges(settings.judges)
    writing = frozenset(settings.model_servers.keys() - taken) if taken else None
    targets: list[ModelTarget] = []
    waiting: list[str | None] = [model_name]
    seen: set[str | None] = set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        model = settings.models.get(name) if name is not None else None
        stands_in = f"{name} answered in place of {model_name}" if targets else ""
        if model is None:
            own_window = window if name == model_name else None
            targets.append(ModelTarget(name=name, endpoints=writing, window=own_window, stands_in=stands_in))
            continue
        targets.append(
            ModelTarget(
                name=model.name or name,
                endpoints=frozenset(model.endpoints) if model.endpoints else writing,
                base=model.base,
                adapter=model.adapter,
                window=(window if name == model_name else None) or model.context_window,
                stands_in=stands_in,
            )
        )
        waiting += model.fallbacks
    for target in list(targets):
        if target.base and target.base != target.name and all(each.name != target.base for each in targets):
            stands_in = f"{target.base} answered in place of its adapter {target.name}"
            targets.append(structs.replace(target, name=target.base, base=None, adapter=None, stands_in=stands_in))
    return tuple(targets)


def _persona(profile: RoleProfile, phase: Phase) -> str:
    """Who judges is told to judge; a role's own way of writing is no help there."""
    return profile.judge_persona if phase in JUDGING else profile.persona


def _of_phase(profile: RoleProfile, phase: Phase, name: str) -> Any:
    """A phase's own value, else the role's."""
    own = getattr(profile.phases.get(phase), name, None)
    return getattr(profile, name) if own is None else own


def with_persona(messages: tuple[ChatMessage, ...], persona: str) -> tuple[ChatMessage, ...]:
    """The persona begins the first user message, so that the instructions end the last one. The system message before
    it is the prefix that all calls of a deliberation share.
    """
    for index, message in enumerate(messages):
        if message.role == "user":
            spoken = structs.replace(message, content=f"{persona}\n\n{message.content}")
            return (*messages[:index], spoken, *messages[index + 1 :])
    return (*messages, ChatMessage(role="user", content=persona))
