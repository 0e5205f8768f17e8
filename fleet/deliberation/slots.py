"""Puts each answer into the slot of its call, once. An answer without an open slot changes nothing."""

from typing import assert_never

from fleet.deliberation.asking import Call, calls
from fleet.deliberation.judges.rewards import MOST_REWARD
from fleet.deliberation.state import CallStatus, Candidate, CritiqueCall, Deliberation
from fleet.deliberation.stopping import similarity
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentResponse,
    Comparison,
    Declined,
    EarlierText,
    ErrorType,
    FailedCall,
    Reward,
)
from fleet.messages.usage import merged
from fleet.times import from_rfc3339


def fill(state: Deliberation, response: AgentResponse) -> Deliberation:
    """Puts an answer into its slot; returns `state` itself when there is no such open slot."""
    if (response.phase, response.round) != (state.phase, state.round) or state.calls.get(response.slot) != "open":
        return state
    if response.run not in ("", state.run):  # of an earlier request with this task id
        return state
    if isinstance(response, AgentFailed):
        return _failed(state, response, response.error, response.error_type)
    call = calls(state)[response.slot]
    filled = _answered(state, call, response)
    if filled is None:
        return _failed(state, response, _why_not(state, response), "MalformedResponse")
    filled = filled.change(
        notes=tuple(sorted({*filled.notes, *response.notes})), impaired=filled.impaired or response.degraded
    )
    return _close(filled, response, "completed")


def is_late(state: Deliberation, response: AgentResponse, at_ms: int) -> bool:
    """Whether the last call of a phase ended with the deadline: then there is no next phase. A judge's call has less
    time than the task.
    """
    expired = isinstance(response, AgentFailed) and response.error_type == "DeadlineExceeded"
    expired = expired and all(response.agent_id != judge.judge_id for judge in state.judges)
    return "open" not in state.calls.values() and (expired or at_ms >= from_rfc3339(state.deadline_at))


def expire(state: Deliberation) -> Deliberation:
    """The deadline fails what is still open, but leaves it open in `calls`, so that the outbox stops it."""
    by_slot = calls(state)
    late = tuple(
        FailedCall(
            agent_id=by_slot[slot].agent_id,
            phase=state.phase,
            round=state.round,
            error=f"no answer before the deadline of {state.task.timeout_seconds:g} s",
            error_type="DeadlineExceeded",
        )
        for slot, status in state.calls.items()
        if status == "open"
    )
    return state.change(failures=(*state.failures, *late), calls_ended=state.calls_ended + len(late))


def _failed(state: Deliberation, response: AgentResponse, error: str, error_type: ErrorType) -> Deliberation:
    failure = FailedCall(
        agent_id=response.agent_id, phase=state.phase, round=state.round, error=error, error_type=error_type
    )
    return _close(state, response, "failed").change(failures=(*state.failures, failure))


def _close(state: Deliberation, response: AgentResponse, status: CallStatus) -> Deliberation:
    *earlier, current = state.phases or (state.record(state.phase),)
    current = current.change(
        tokens=current.tokens + response.usage.total, longest_ms=max(current.longest_ms, response.duration_ms)
    )
    return state.change(
        calls={**state.calls, response.slot: status},
        usage=state.usage + response.usage,
        usage_by_model=merged(state.usage_by_model, response.usage_by_model),
        calls_ended=state.calls_ended + 1,
        phases=(*earlier, current),
    )


def _answered(state: Deliberation, call: Call, response: AgentCompleted) -> Deliberation | None:
    """The state with the answer in it; None for a response without one."""
    agent = call.agent_id
    if call.judge is not None:
        return _judged(state, call, response)
    match state.phase:
        case "propose" | "revise":
            return _written(state, agent, response)
        case "critique" if response.critiques is not None:
            critiques = tuple(one for one in response.critiques if one.author_id in call.labels.values())
            critique_call = CritiqueCall(reviewer_id=agent, round=state.round, critiques=critiques)
            return state.change(critiques=(*state.critiques, critique_call))
        case "score" if response.scores is not None:
            cards = tuple(card for card in response.scores if card.author_id in call.labels.values())
            if state.reading == 2:
                return state.change(second_scores={**state.second_scores, agent: cards})
            return state.change(scores={**state.scores, agent: cards})
        case "vote" | "compare" | "choose" if response.choice and response.choice.author_id in call.labels.values():
            comparison = Comparison(
                phase=state.phase,
                reviewer_id=agent,
                order=tuple(call.labels.values()),
                chosen=response.choice.author_id,
                rationale=response.choice.rationale,
            )
            return state.change(comparisons=(*state.comparisons, comparison))
        case "synthesise" if response.synthesis and response.synthesis.content.strip():
            return state.change(synthesis=response.synthesis)
        case "critique" | "score" | "vote" | "compare" | "choose" | "synthesise":
            return None
        case _:
            assert_never(state.phase)


def _why_not(state: Deliberation, response: AgentCompleted) -> str:
    if response.reward is not None and not _in_range(response.reward):
        return f"the reward {response.reward.value:g} is out of range: −{MOST_REWARD:,.0f} … {MOST_REWARD:,.0f}"
    return f"the response carries no answer for the phase {state.phase}"


def _in_range(reward: Reward) -> bool:
    return abs(reward.value) <= MOST_REWARD


def _judged(state: Deliberation, call: Call, response: AgentCompleted) -> Deliberation | None:
    reward, (author,) = response.reward, call.labels.values()
    if reward is None or not _in_range(reward):
        return None
    given = {**state.rewards.get(call.agent_id, {}), author: reward}
    return state.change(rewards={**state.rewards, call.agent_id: given})


def _written(state: Deliberation, agent: str, response: AgentCompleted) -> Deliberation | None:
    before = state.candidates.get(agent)
    if before is not None and response.declined is not None:
        declined = Declined(round=state.round, reason=response.declined)
        candidate = before.change(
            declined=(*before.declined, declined), similarity={**before.similarity, state.round: 1.0}
        )
    elif response.proposal is None or not response.proposal.content.strip():
        return None
    elif before is None:
        candidate = Candidate(proposal=response.proposal, duration_ms=0, checks=response.checks)
    else:
        alike = similarity(before.proposal.content, response.proposal.content)
        candidate = before.change(
            proposal=response.proposal,
            checks=response.checks,
            similarity={**before.similarity, state.round: alike},
            round=state.round,
            earlier=(*before.earlier, EarlierText(round=before.round, content=before.proposal.content)),
        )
    spent = candidate.change(duration_ms=candidate.duration_ms + response.duration_ms)
    return state.change(candidates={**state.candidates, agent: spent})
