"""Builds what is published of a call: its answer, or why there is none."""

from fleet.clock import now_ms
from fleet.errors import AgentCallError
from fleet.messages import AgentCompleted, AgentFailed, AgentRequested, CallFacts, Check, Proposal, Reward, Synthesis
from fleet.times import rfc3339
from workers.calls.call_names import slot_of
from workers.calls.reading.answers import CheckedAnswer
from workers.llm.client import Answer, GaveUp
from workers.llm.requests import ModelRequest
from workers.llm.spending import Spending


def completed(
    request: AgentRequested,
    model_request: ModelRequest,
    answer: Answer,
    checks: dict[str, Check],
    duration_ms: int,
    delivery: int = 1,
) -> AgentCompleted:
    """`checks`: what was found in the proposal. `delivery`: of the call, from 1."""
    checked: CheckedAnswer = answer.checked
    return AgentCompleted(
        **slot_of(request),
        attempt=answer.attempt,
        model=answer.model,
        num_agents=request.num_agents,
        duration_ms=duration_ms,
        timestamp=rfc3339(now_ms()),
        proposal=_proposal(request, model_request, answer),
        declined=checked.declined,
        critiques=checked.critiques,
        scores=checked.scores,
        reward=_reward(request, answer),
        choice=checked.choice,
        synthesis=_synthesis(request, answer),
        checks=checks,
        reasoning=answer.reasoning,
        notes=(*answer.notes, *checked.notes),
        degraded=answer.stands_in or answer.truncated or bool(checked.missing),
        diversity=request.diversity,
        usage=answer.spent.usage,
        usage_by_model=answer.spent.of_call(failed=False),
        facts=answer.facts.change(delivery=delivery),
        correlation=request.correlation,
        correlation_ref=request.correlation_ref,
    )


def failed(
    request: AgentRequested, error: AgentCallError, first_attempt: int, duration_ms: int, delivery: int = 1
) -> AgentFailed:
    """`first_attempt` is the attempt of a call that came to none."""
    spent = error.spent if isinstance(error, GaveUp) else Spending()
    return AgentFailed(
        **slot_of(request),
        attempt=error.attempt if isinstance(error, GaveUp) else first_attempt,
        error=error.error,
        error_type=error.error_type,
        retryable=error.retryable,
        num_agents=request.num_agents,
        duration_ms=duration_ms,
        timestamp=rfc3339(now_ms()),
        usage=spent.usage,
        usage_by_model=spent.of_call(failed=True),
        facts=(error.facts if isinstance(error, GaveUp) else CallFacts()).change(delivery=delivery),
        correlation=request.correlation,
        correlation_ref=request.correlation_ref,
    )


def _reward(request: AgentRequested, answer: Answer) -> Reward | None:
    value = answer.checked.reward
    if value is None or request.judge is None:
        return None
    return Reward(value=value, kind=request.judge.kind, model=answer.model)


def _proposal(request: AgentRequested, model_request: ModelRequest, answer: Answer) -> Proposal | None:
    text = answer.checked.proposal
    if text is None:
        return None
    return Proposal(
        content=text,
        author_id=request.agent_id,
        author_role=request.role,
        model=answer.model,
        temperature=model_request.temperature,
        tokens=answer.tokens,
        revisions=request.revisions,
        finish_reason=answer.finish_reason,
        truncated=answer.truncated,
        endpoint=answer.endpoint,
    )


def _synthesis(request: AgentRequested, answer: Answer) -> Synthesis | None:
    text = answer.checked.synthesis
    if text is None:
        return None
    return Synthesis(
        content=text,
        author_id=request.agent_id,
        model=answer.model,
        tokens=answer.tokens,
        sources=tuple(request.labels.values()),
    )
