"""Runs shadows beside a council: models on trial, which propose and are scored, and change nothing else.

    propose ─▶ score ─▶ reported in the terminal event
       │          └ by the council's members, who score the first texts of all others and of shadows in one prompt
       └ together with the council's own first phase

Nothing of the council's course reads `state.shadows`, so its result is the same with and without them. What they use,
and where they failed, is told apart.

First texts are compared, since shadows do not revise. Members and shadows are asked alike: a shadow's calls are those
of a larger council (`enlarged`), in which shadows are authors and judge nobody.

The end of a council waits for the scores of shadows a bounded time (`held`): a quarter of the time that it took, at
least `LEAST_WAIT_MS`, at most `MOST_WAIT_MS`, never beyond the deadline. Then it ends with the scores that there are.
"""

from collections.abc import Mapping, Sequence

from fleet.deliberation.asking import Call, request
from fleet.deliberation.labels import shuffled_labels
from fleet.deliberation.state import CallStatus, Candidate, Deliberation, Shadow, Shadows
from fleet.messages import (
    AgentFailed,
    AgentRequested,
    AgentResponse,
    ErrorType,
    FailedCall,
    Phase,
)
from fleet.messages.usage import merged
from fleet.times import from_rfc3339, rfc3339

FIRST_NUMBER = 101
"""Of shadows within a role: no member of a council has such a number."""
QUESTION = 201
"""Of the call in which a member scores shadows: no other question has this number."""
WAIT_SHARE = 0.25
LEAST_WAIT_MS, MOST_WAIT_MS = 2_000, 30_000


def begin(state: Deliberation, models: Mapping[str, Sequence[str]]) -> Deliberation:
    """With the shadows of the council's roles, one for each model, and the calls for their proposals open.

    `models`: by role, of those roles that have shadows.
    """
    roles = dict.fromkeys(state.role_of(agent) for agent in state.agents)
    agents = tuple(
        Shadow(agent_id=f"agent-{role.lower()}-{number:03d}", role=role, model=model)
        for role in roles
        for number, model in enumerate(models.get(role, ()), start=FIRST_NUMBER)
    )
    if not agents:
        return state
    return state.change(shadows=Shadows(agents=agents, calls={each.agent_id: "open" for each in agents}))


def enlarged(state: Deliberation, phase: Phase) -> Deliberation:
    """The council as one of members and shadows with their first texts. Judges are told of no checks: of members'
    first texts they may be gone.
    """
    assert state.shadows is not None
    first = {agent: _first(candidate) for agent, candidate in state.candidates.items()}
    shadows = {agent: _first(candidate) for agent, candidate in state.shadows.candidates.items()}
    return state.change(
        phase=phase,
        round=0,
        reading=1,
        verdict_round=0,
        task=state.task.change(selection="score"),
        agents=(*state.agents, *state.shadows.ids),
        candidates={**first, **shadows},
        scores=state.shadows.scores,
        judges=(),
        rewards={},
        second_orders={},
        second_scores={},
        critiques=(),
        comparisons=(),
        synthesis=None,
    )


def _first(candidate: Candidate) -> Candidate:
    text = candidate.earlier[0].content if candidate.earlier else candidate.proposal.content
    return Candidate(proposal=candidate.proposal.change(content=text, truncated=False), duration_ms=0)


def is_open(state: Deliberation) -> bool:
    """Whether a call of shadows, or for them, has not ended."""
    return state.shadows is not None and "open" in state.shadows.calls.values()


def is_held(state: Deliberation) -> bool:
    """Whether the council has come to its end, and waits for its shadows."""
    return state.shadows is not None and state.shadows.until is not None


def open_calls(state: Deliberation, since: Deliberation | None = None) -> tuple[AgentRequested, ...]:
    """The messages for the workers, of the calls that have not ended, and of those that were not there `since`."""
    if not is_open(state):
        return ()
    assert state.shadows is not None
    before = since.shadows.calls if since is not None and since.shadows is not None else {}
    wanted = {slot for slot, status in state.shadows.calls.items() if status == "open" and slot not in before}
    proposing = (Call(each.agent_id, each.role, {}) for each in state.shadows.agents)
    asked = [
        *((enlarged(state, "propose"), call) for call in proposing if call.slot in wanted),
        *((enlarged(state, "score"), call) for call in _scoring(state) if call.slot in wanted),
    ]
    return tuple(request(council, call).change(shadow=True) for council, call in asked)


def _scoring(state: Deliberation) -> list[Call]:
    """One for each member with a proposal."""
    if state.shadows is None or not state.shadows.candidates or len(state.candidates) < 2:
        return []
    council = enlarged(state, "score")
    return [
        Call(agent, state.role_of(agent), shuffled_labels(council, agent, "score", 0), QUESTION)
        for agent in state.ranked_agents
    ]


def _scored(shadows: Shadows) -> bool:
    return any(slot not in shadows.ids for slot in shadows.calls)


def fill(state: Deliberation, response: AgentResponse) -> Deliberation:
    """Puts an answer into its slot; returns `state` itself when shadows have no such open slot."""
    shadows = state.shadows
    if shadows is None or shadows.calls.get(response.slot) != "open" or response.run not in ("", state.run):
        return state
    phase: Phase = "propose" if response.slot in shadows.ids else "score"
    if (response.phase, response.round) != (phase, 0):
        return state
    if isinstance(response, AgentFailed):
        return _failed(state, shadows, response, response.error, response.error_type)
    if phase == "propose" and response.proposal is not None and response.proposal.content.strip():
        candidate = Candidate(proposal=response.proposal, duration_ms=response.duration_ms, checks=response.checks)
        shadows = shadows.change(candidates={**shadows.candidates, response.agent_id: candidate})
    elif phase == "score" and response.scores is not None:
        (call,) = (call for call in _scoring(state) if call.slot == response.slot)
        cards = tuple(card for card in response.scores if card.author_id in call.labels.values())
        shadows = shadows.change(
            scores={**shadows.scores, response.agent_id: cards},
            judges={**shadows.judges, response.agent_id: response.model},
        )
    else:
        error = f"the response carries no answer for the phase {phase}"
        return _failed(state, shadows, response, error, "MalformedResponse")
    return state.change(shadows=_closed(shadows, response, "completed"))


def _failed(
    state: Deliberation, shadows: Shadows, response: AgentResponse, error: str, error_type: ErrorType
) -> Deliberation:
    failure = FailedCall(agent_id=response.agent_id, phase=response.phase, error=error, error_type=error_type)
    closed = _closed(shadows, response, "failed")
    return state.change(shadows=closed.change(failures=(*shadows.failures, failure)))


def _closed(shadows: Shadows, response: AgentResponse, status: CallStatus) -> Shadows:
    return shadows.change(
        calls={**shadows.calls, response.slot: status},
        usage=shadows.usage + response.usage,
        usage_by_model=merged(shadows.usage_by_model, response.usage_by_model),
        calls_ended=shadows.calls_ended + 1,
    )


def scoring_begun(state: Deliberation) -> Deliberation:
    """With the scoring open, where it is time: all shadows have proposed or failed, and all members have."""
    shadows = state.shadows
    if shadows is None or not _may_be_scored(state) or state.phase == "propose" or is_open(state) or _scored(shadows):
        return state
    calls: dict[str, CallStatus] = {call.slot: "open" for call in _scoring(state)}
    return state.change(shadows=shadows.change(calls={**shadows.calls, **calls})) if calls else state


def _may_be_scored(state: Deliberation) -> bool:
    """Whether there is, or will be, somebody who may score them. `selection: checks` asks nobody."""
    return state.task.selection != "checks" and (state.phase == "propose" or len(state.candidates) > 1)


def held(before_end: Deliberation, ended: Deliberation, at_ms: int) -> Deliberation:
    """A council that has completed, as it waits for the scores of its shadows; `ended` itself if there is nothing to
    wait for. `before_end`: what it was before.
    """
    if ended.status != "COMPLETED" or ended.shadows is None or is_held(before_end):
        return ended
    waiting = scoring_begun(ended.change(status=before_end.status, result=None))
    if not is_open(waiting) or not _may_be_scored(waiting) or len(waiting.candidates) < 2:
        return ended
    took_ms = at_ms - from_rfc3339(waiting.accepted_at)
    wait_ms = min(MOST_WAIT_MS, max(LEAST_WAIT_MS, round(WAIT_SHARE * took_ms)))
    until_ms = min(at_ms + wait_ms, from_rfc3339(waiting.deadline_at))
    assert waiting.shadows is not None
    return waiting.change(shadows=waiting.shadows.change(since=rfc3339(at_ms), until=rfc3339(until_ms)))


def is_over(state: Deliberation, at_ms: int) -> bool:
    """Whether a council that waits for its shadows need not wait any more."""
    shadows = state.shadows
    if shadows is None or shadows.until is None:
        return False
    return not is_open(state) or at_ms >= from_rfc3339(shadows.until)
