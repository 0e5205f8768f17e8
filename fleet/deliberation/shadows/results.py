"""What a result says of shadows: their places after all others, how they were scored, and what they cost."""

from collections.abc import Sequence

from fleet.deliberation.rating.faults import examined
from fleet.deliberation.rating.judging import standings
from fleet.deliberation.rating.scoring import card_score, weights
from fleet.deliberation.reports import reviews
from fleet.deliberation.shadows.course import enlarged
from fleet.deliberation.state import Deliberation
from fleet.messages import FailedCall, RankedResult, Scorecard, ShadowReading, ShadowReport
from fleet.messages.usage import usage_of


def results(state: Deliberation, first_rank: int) -> tuple[RankedResult, ...]:
    """Of the shadows with a proposal, in their order, after all others: their places say nothing of their scores."""
    shadows = state.shadows
    if shadows is None or not shadows.candidates:
        return ()
    council = enlarged(state, "score")
    # What checks found in shadows takes points off, as with the others.
    council = council.change(candidates={**council.candidates, **shadows.candidates})
    found = examined(council)
    final = standings(council, found)
    proposed = [each for each in shadows.agents if each.agent_id in shadows.candidates]
    return tuple(
        RankedResult(
            rank=place,
            agent_id=each.agent_id,
            role=each.role,
            score=final.score[each.agent_id],
            proposal=shadows.candidates[each.agent_id].proposal,
            reviews=reviews(council, each.agent_id, final, {}, found.copies),
            checks=dict(found.checks[each.agent_id]),
            duration_ms=shadows.candidates[each.agent_id].duration_ms,
            penalty=final.penalty[each.agent_id],
            shadow=True,
        )
        for place, each in enumerate(proposed, start=first_rank)
    )


def report(state: Deliberation) -> ShadowReport | None:
    """None where the council has no shadows. Calls that are open are told as failed."""
    shadows = state.shadows
    if shadows is None:
        return None
    unfinished = [
        FailedCall(
            agent_id=slot.partition("~")[0],
            phase="propose" if slot in shadows.ids else "score",
            error="no answer in the time that the council had, or waited for shadows",
            error_type="DeadlineExceeded",
        )
        for slot, status in shadows.calls.items()
        if status == "open"
    ]
    failed = sorted((*shadows.failures, *unfinished), key=lambda call: (call.phase, call.agent_id))
    return ShadowReport(
        agents=shadows.ids,
        missing=tuple(agent for agent in shadows.ids if agent not in shadows.candidates),
        failed_calls=tuple(failed),
        readings=tuple(
            ShadowReading(
                reviewer_id=agent,
                scores=_means(state, shadows.scores[agent]),
                model=shadows.judges.get(agent, ""),
            )
            for agent in state.agents
            if agent in shadows.scores
        ),
        **usage_of(
            shadows.usage,
            shadows.usage_by_model,
            calls=shadows.calls_ended + len(unfinished),
            failed=len(failed),
        ),
    )


def _means(state: Deliberation, cards: Sequence[Scorecard]) -> dict[str, float]:
    rubric = weights(state.rubric)
    means = {card.author_id: card_score(card.criteria, rubric) for card in cards}
    return {author: mean for author, mean in sorted(means.items()) if mean is not None}
