"""From a state to its terminal event. Everything is put in agent order here, so that arrival order never shows."""

from fleet.deliberation.ranking import rank
from fleet.deliberation.scoring import card_score, combined, weights
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AllFailed,
    DeliberationCancelled,
    DeliberationCompleted,
    FailedCall,
    RankedResult,
    Review,
    Status,
    TerminalEvent,
    TimedOut,
    TotalUsage,
)
from fleet.times import from_rfc3339, rfc3339

_PHASE_ORDER = ("propose", "critique", "revise", "score")


def conclude_with_what_there_is(state: Deliberation, at_ms: int, *, deadline: bool = False) -> Deliberation:
    """COMPLETED with at least one proposal; otherwise TIMEOUT at the deadline, FAILED before it."""
    if state.candidates:
        return _end(state, "COMPLETED", _completed(state, at_ms))
    failures = _failures(state)
    common = {
        "task_id": state.task_id,
        "failed_agents": failures,
        "total_agents": len(state.agents),
        "duration_ms": _duration_ms(state, at_ms),
        "completed_at": rfc3339(at_ms),
        "usage": _usage(state),
        "correlation": state.task.correlation,
    }
    if deadline:
        error = f"no agent had finished a proposal after {state.task.timeout_seconds:g} s"
        return _end(state, "TIMEOUT", TimedOut(error=error, **common))  # type: ignore[arg-type]
    first = failures[0]
    error = f"every agent failed; {first.agent_id}: {first.error_type}: {first.error}"
    return _end(state, "FAILED", AllFailed(error=error, **common))  # type: ignore[arg-type]


def conclude_cancelled(state: Deliberation, reason: str, at_ms: int) -> Deliberation:
    """CANCELLED. Open calls stay open in `calls`, so that the outbox stops them."""
    event = DeliberationCancelled(
        task_id=state.task_id,
        reason=reason,
        duration_ms=_duration_ms(state, at_ms),
        completed_at=rfc3339(at_ms),
        usage=_usage(state),
        correlation=state.task.correlation,
    )
    return _end(state, "CANCELLED", event)


def _end(state: Deliberation, status: Status, event: TerminalEvent) -> Deliberation:
    return state.change(status=status, result=event)


def _completed(state: Deliberation, at_ms: int) -> DeliberationCompleted:
    failures = _failures(state)
    missing = tuple(agent for agent in state.agents if agent not in state.candidates)
    reviews = {agent: _reviews(state, agent) for agent in state.candidates}
    scores = {
        agent: combined(review.score for review in given if review.score is not None)
        for agent, given in reviews.items()
    }
    order = rank([agent for agent in state.agents if agent in state.candidates], scores)
    results = tuple(
        RankedResult(
            rank=place,
            agent_id=agent,
            role=state.task.role,
            score=scores[agent],
            proposal=state.candidates[agent].proposal,
            reviews=reviews[agent],
            checks={},
            duration_ms=state.candidates[agent].duration_ms,
        )
        for place, agent in enumerate(order, start=1)
    )
    return DeliberationCompleted(
        task_id=state.task_id,
        degraded=bool(missing or failures),
        missing=missing,
        winner_id=order[0],
        results=results,
        failed_agents=failures,
        total_agents=len(state.agents),
        successful_responses=len(state.candidates),
        failed_responses=len(missing),
        rounds_run=state.rounds_run,
        usage=_usage(state),
        duration_ms=_duration_ms(state, at_ms),
        accepted_at=state.accepted_at,
        completed_at=rfc3339(at_ms),
        correlation=state.task.correlation,
    )


def _reviews(state: Deliberation, author: str) -> tuple[Review, ...]:
    """Critiques in the order of their rounds, then scores; each in reviewer order."""
    place = {agent: index for index, agent in enumerate(state.agents)}
    critiques = [
        Review(
            reviewer_id=call.reviewer_id,
            phase="critique",
            round=call.round,
            strengths=critique.strengths,
            weaknesses=critique.weaknesses,
            changes=critique.changes,
        )
        for call in sorted(state.critiques, key=lambda call: (call.round, place[call.reviewer_id]))
        for critique in call.critiques
        if critique.author_id == author
    ]
    rubric = weights(state.task.rubric)
    scores = [
        Review(
            reviewer_id=reviewer,
            phase="score",
            round=state.round,
            criteria=card.criteria,
            score=card_score(card.criteria, rubric),
        )
        for reviewer in state.agents
        for card in state.scores.get(reviewer, ())
        if card.author_id == author
    ]
    return (*critiques, *scores)


def _failures(state: Deliberation) -> tuple[FailedCall, ...]:
    place = {agent: index for index, agent in enumerate(state.agents)}
    return tuple(
        sorted(state.failures, key=lambda call: (call.round, _PHASE_ORDER.index(call.phase), place[call.agent_id]))
    )


def _usage(state: Deliberation) -> TotalUsage:
    return TotalUsage(
        prompt_tokens=state.usage.prompt_tokens,
        completion_tokens=state.usage.completion_tokens,
        cached_tokens=state.usage.cached_tokens,
        calls=state.calls_ended,
        failed_calls=len(state.failures),
    )


def _duration_ms(state: Deliberation, at_ms: int) -> int:
    return max(0, at_ms - from_rfc3339(state.accepted_at))
