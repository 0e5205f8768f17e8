"""Builds the terminal event of a state. Everything is sorted by agent here, so that arrival order never shows."""

from typing import Any, get_args

from fleet.deliberation import reports
from fleet.deliberation.rating.faults import examined, notes_on_copies
from fleet.deliberation.rating.judging import final_standings, judges_scores, shortlist_of, synthesis_is_better
from fleet.deliberation.shadows import results as shadows
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AllFailed,
    Comparison,
    DeliberationCancelled,
    DeliberationCompleted,
    FailedCall,
    Phase,
    RankedResult,
    Status,
    TerminalEvent,
    TimedOut,
)
from fleet.messages.usage import usage_of
from fleet.times import from_rfc3339, rfc3339

PHASES: tuple[Phase, ...] = get_args(Phase)


def complete_partial(state: Deliberation, at_ms: int, *, deadline: bool = False) -> Deliberation:
    """COMPLETED with at least one proposal; otherwise TIMEOUT at the deadline, FAILED before it."""
    if state.candidates:
        if deadline and state.stop_reason is None and state.rounds_run < state.task.rounds:
            explanation = f"the deadline of {state.task.timeout_seconds:g} s passed in the phase {state.phase}"
            state = state.change(stop_reason="deadline", stop_explanation=explanation)
        return _end(state, "COMPLETED", _completed(state, at_ms))
    failures = _failures(state)
    common = {
        **state.name._asdict(),
        "failed_agents": failures,
        "total_agents": len(state.agents),
        "duration_ms": _duration_ms(state, at_ms),
        "completed_at": rfc3339(at_ms),
        **spent(state),
        "shadows": shadows.report(state),
        "disqualified": reports.disqualified(state),
        "task": reports.task(state),
        "correlation": state.task.correlation,
    }
    if deadline:
        error = f"no agent had finished a proposal after {state.task.timeout_seconds:g} s"
        if not state.phases:
            error = f"the result of an equal request did not come within {state.task.timeout_seconds:g} s"
        return _end(state, "TIMEOUT", TimedOut(error=error, **common))
    first = failures[0]
    error = f"every agent failed; {first.agent_id}: {first.error_type}: {first.error}"
    return _end(state, "FAILED", AllFailed(error=error, **common))


def conclude_cancelled(state: Deliberation, reason: str, at_ms: int) -> Deliberation:
    """CANCELLED. Open calls stay open in `calls`, so that the outbox stops them."""
    event = DeliberationCancelled(
        **state.name._asdict(),
        reason=reason,
        duration_ms=_duration_ms(state, at_ms),
        completed_at=rfc3339(at_ms),
        task=reports.task(state),
        correlation=state.task.correlation,
        **spent(state),
        shadows=shadows.report(state),
    )
    return _end(state, "CANCELLED", event)


def _end(state: Deliberation, status: Status, event: TerminalEvent) -> Deliberation:
    return state.change(status=status, result=event)


def _completed(state: Deliberation, at_ms: int) -> DeliberationCompleted:
    failures = _failures(state)
    missing = tuple(agent for agent in state.agents if agent not in state.candidates)
    found = examined(state)
    final, judged = final_standings(state, found), judges_scores(state)
    results = tuple(
        RankedResult(
            rank=place,
            agent_id=agent,
            role=state.role_of(agent),
            score=final.score[agent],
            proposal=state.candidates[agent].proposal,
            reviews=reports.reviews(state, agent, final, judged, found.copies),
            checks=dict(found.checks[agent]),
            duration_ms=state.candidates[agent].duration_ms,
            penalty=final.penalty[agent],
            p_best=final.p_best.get(agent),
            borda=final.borda.get(agent),
            votes=final.votes.get(agent),
            declined=state.candidates[agent].declined,
            earlier=state.candidates[agent].earlier,
            same_as=found.copies.get(agent),
        )
        for place, agent in enumerate(final.order, start=1)
    )
    return DeliberationCompleted(
        **state.name._asdict(),
        degraded=bool(missing or failures or state.cut_short or state.impaired),
        missing=missing,
        winner_id=final.order[0],
        results=(*results, *shadows.results(state, len(results) + 1)),
        failed_agents=failures,
        total_agents=len(state.agents),
        successful_responses=len(state.candidates),
        failed_responses=len(missing),
        rounds_run=state.rounds_run,
        duration_ms=_duration_ms(state, at_ms),
        accepted_at=state.accepted_at,
        completed_at=rfc3339(at_ms),
        margin=final.margin,
        confidence=final.confidence,
        ranking=reports.ranking(state, final),
        comparisons=_in_order(state),
        selection=reports.selection(state, shortlist_of(state, final, found)),
        rounds=reports.rounds(state),
        stop_reason=state.stop_reason,
        stop_explanation=state.stop_explanation,
        disqualified=reports.disqualified(state),
        synthesis=state.synthesis and state.synthesis.change(better=synthesis_is_better(state)),
        notes=(*state.notes, *notes_on_copies(state, len(found.copies)), *reports.notes_on_obedience(final)),
        task=reports.task(state),
        correlation=state.task.correlation,
        **spent(state),
        shadows=shadows.report(state),
    )


def _in_order(state: Deliberation) -> tuple[Comparison, ...]:
    """Votes, comparisons and choices by phase, reviewer, and the order that was shown."""
    return tuple(
        sorted(state.comparisons, key=lambda choice: (PHASES.index(choice.phase), choice.reviewer_id, choice.order))
    )


def _failures(state: Deliberation) -> tuple[FailedCall, ...]:
    known = (*state.agents, *(judge.judge_id for judge in state.judges))
    place = {agent: index for index, agent in enumerate(known)}
    outside = len(place)
    return tuple(
        sorted(
            state.failures,
            key=lambda call: (
                call.round,
                PHASES.index(call.phase),
                place.get(call.agent_id, outside),
                call.error_type,
                call.error,
            ),
        )
    )


def spent(state: Deliberation) -> dict[str, Any]:
    """What the calls that ended have used, without those of shadows."""
    return usage_of(state.usage, state.usage_by_model, calls=state.calls_ended, failed=len(state.failures))


def _duration_ms(state: Deliberation, at_ms: int) -> int:
    return max(0, at_ms - from_rfc3339(state.accepted_at))
