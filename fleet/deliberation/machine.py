"""The deliberation as a state machine: `decide(state, event) -> Decision(state, outbox)`.

Theory. A deliberation is a sequence of phases, each a set of calls, one per agent; a phase ends when every call of it
has ended, well or not:

    propose ─▶ ( critique ─▶ revise ) × rounds ─▶ score ─▶ completed
       │ no proposal at all ─▶ failed
       └ anywhere: deadline ─▶ completed with what there is, or timeout;  cancel ─▶ cancelled

Three properties carry everything else, and property tests hold them:

* A call is a slot (`round`, `phase`, `agent_id`) filled once. What names no open slot of the current phase changes
  nothing: that answers every question of repetition and lateness in one place.
* Within a phase order does not matter: what is derived from the answers is derived in agent order once all are there.
* The outbox is a function of the state alone. `due(state)` is all that a state owes the world: calls still open, or the
  terminal event. So a crash between saving a state and publishing its outbox is repaired by publishing `due` again, and
  deterministic message ids make the repetition harmless.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from fleet.deliberation import prompts
from fleet.deliberation.conclusion import conclude_cancelled, conclude_with_what_there_is
from fleet.deliberation.events import (
    Announce,
    CallAgent,
    CancelAsked,
    ClearDeadline,
    Conclude,
    DeadlinePassed,
    Effect,
    Event,
    Requested,
    Responded,
    SetDeadline,
    StopCalls,
)
from fleet.deliberation.state import CallStatus, Candidate, CritiqueCall, Deliberation
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentRequested,
    AgentResponse,
    ChatMessage,
    Critique,
    DeliberationAccepted,
    FailedCall,
    Phase,
)
from fleet.times import from_rfc3339, rfc3339

PHASES: tuple[Phase, ...] = ("propose", "critique", "revise", "score")


@dataclass(frozen=True, slots=True)
class Decision:
    """The new state, and what must be published because of it. `state is` the old one when nothing changed."""

    state: Deliberation
    outbox: tuple[Effect, ...] = ()


def decide(state: Deliberation | None, event: Event) -> Decision:
    """Applies one fact. Only `Requested` may come without a state; a second `Requested` changes nothing."""
    if state is None:
        if not isinstance(event, Requested):
            raise ValueError(f"{type(event).__name__} for a deliberation that was never requested")
        begun = _begin(event)
        return Decision(begun, due(begun))
    if state.ended:
        return Decision(state)
    match event:
        case Requested():
            return Decision(state)
        case Responded(response, at_ms):
            changed = _fill(state, response)
            if changed is not state and _is_late(changed, response, at_ms):
                # Workers notice the deadline as well, and may be heard before its own message.
                changed = conclude_with_what_there_is(changed, at_ms, deadline=True)
            else:
                changed = _advance(changed, at_ms)
        case DeadlinePassed(at_ms):
            changed = conclude_with_what_there_is(_expire(state), at_ms, deadline=True)
        case CancelAsked(reason, at_ms):
            changed = conclude_cancelled(state, reason, at_ms)
        case _:
            assert_never(event)
    moved = (changed.phase, changed.round, changed.ended) != (state.phase, state.round, state.ended)
    return Decision(changed, due(changed) if moved else ())


def due(state: Deliberation) -> tuple[Effect, ...]:
    """Everything that `state` owes the world, in the order in which to publish it."""
    if state.result is not None:
        stop = (StopCalls(state.task_id),) if "open" in state.calls.values() else ()
        return (*stop, Conclude(state.result), ClearDeadline(state.task_id))
    calls = tuple(CallAgent(_request(state, agent)) for agent in state.agents if state.calls.get(agent) == "open")
    if state.phase != "propose":
        return calls
    return (SetDeadline(state.task_id, state.deadline_at), Announce(_accepted(state)), *calls)


def recover(state: Deliberation) -> tuple[Effect, ...]:
    """`due`, and while the task runs the beginning's effects too: after a crash nobody knows which of them got out."""
    if state.ended or state.phase == "propose":
        return due(state)
    return (SetDeadline(state.task_id, state.deadline_at), Announce(_accepted(state)), *due(state))


# --- beginning ------------------------------------------------------------------------------------------------------


def _begin(event: Requested) -> Deliberation:
    task = event.task
    agents = tuple(f"agent-{task.role.lower()}-{number:03d}" for number in range(1, task.num_agents + 1))
    return Deliberation(
        task_id=event.task_id,
        status="IN_PROGRESS",
        phase="propose",
        round=0,
        task=task,
        seed=zlib.crc32(event.task_id.encode()) if task.seed is None else task.seed,
        stream_sequence=event.sequence,
        accepted_at=rfc3339(event.at_ms),
        deadline_at=rfc3339(event.at_ms + round(task.timeout_seconds * 1000)),
        agents=agents,
        calls=dict.fromkeys(agents, "open"),
        traceparent=event.traceparent,
    )


def _accepted(state: Deliberation) -> DeliberationAccepted:
    return DeliberationAccepted(
        task_id=state.task_id,
        status="IN_PROGRESS",
        role=state.task.role,
        agents=state.agents,
        rounds=state.task.rounds,
        accepted_at=state.accepted_at,
        deadline_at=state.deadline_at,
        stream_sequence=state.stream_sequence,
        correlation=state.task.correlation,
    )


# --- filling slots --------------------------------------------------------------------------------------------------


def _fill(state: Deliberation, response: AgentResponse) -> Deliberation:
    """Puts an answer into its slot; returns `state` itself when there is no such open slot."""
    agent = response.agent_id
    if (response.phase, response.round) != (state.phase, state.round) or state.calls.get(agent) != "open":
        return state
    if isinstance(response, AgentFailed):
        failure = FailedCall(
            agent_id=agent,
            phase=state.phase,
            round=state.round,
            error=response.error,
            error_type=response.error_type,
        )
        return _close(state, response, "failed").change(failures=(*state.failures, failure))
    if not _carries_an_answer(response):
        failure = FailedCall(
            agent_id=agent,
            phase=state.phase,
            round=state.round,
            error=f"the response carries no answer for the phase {state.phase}",
            error_type="MalformedResponse",
        )
        return _close(state, response, "failed").change(failures=(*state.failures, failure))
    closed = _close(state, response, "completed")
    if response.proposal is not None and state.phase in ("propose", "revise"):
        before = state.candidates.get(agent)
        spent = response.duration_ms + (before.duration_ms if before else 0)
        return closed.change(
            candidates={**state.candidates, agent: Candidate(proposal=response.proposal, duration_ms=spent)}
        )
    others = state.candidates.keys() - {agent}
    if response.critiques is not None:
        given = tuple(critique for critique in response.critiques if critique.author_id in others)
        call = CritiqueCall(reviewer_id=agent, round=state.round, critiques=given)
        return closed.change(critiques=(*state.critiques, call))
    cards = tuple(card for card in response.scores or () if card.author_id in others)
    return closed.change(scores={**state.scores, agent: cards})


def _is_late(state: Deliberation, response: AgentResponse, at_ms: int) -> bool:
    """Whether the last call of a phase ended with the deadline: then there is no next phase."""
    expired = isinstance(response, AgentFailed) and response.error_type == "DeadlineExceeded"
    return "open" not in state.calls.values() and (expired or at_ms >= from_rfc3339(state.deadline_at))


def _carries_an_answer(response: AgentCompleted) -> bool:
    match response.phase:
        case "propose" | "revise":
            return response.proposal is not None and bool(response.proposal.content.strip())
        case "critique":
            return response.critiques is not None
        case "score":
            return response.scores is not None
        case _:
            assert_never(response.phase)


def _close(state: Deliberation, response: AgentResponse, status: CallStatus) -> Deliberation:
    return state.change(
        calls={**state.calls, response.agent_id: status},
        usage=state.usage + response.usage,
        calls_ended=state.calls_ended + 1,
    )


def _expire(state: Deliberation) -> Deliberation:
    """Every open call becomes a failure by deadline. The slots stay open in `calls`, so that `due` stops them."""
    late = tuple(
        FailedCall(
            agent_id=agent,
            phase=state.phase,
            round=state.round,
            error=f"no answer before the deadline of {state.task.timeout_seconds:g} s",
            error_type="DeadlineExceeded",
        )
        for agent in state.agents
        if state.calls.get(agent) == "open"
    )
    return state.change(failures=(*state.failures, *late), calls_ended=state.calls_ended + len(late))


# --- moving on ------------------------------------------------------------------------------------------------------


def _advance(state: Deliberation, at_ms: int) -> Deliberation:
    """Moves on while the current phase has no open call. A phase that nobody has anything to do in is passed over."""
    while not state.ended and "open" not in state.calls.values():
        state = _next(state, at_ms)
    return state


def _next(state: Deliberation, at_ms: int) -> Deliberation:
    if len(state.candidates) < 2:
        # Alone there is nobody to review or to compare with; with nobody left it has failed.
        return conclude_with_what_there_is(state, at_ms)
    match state.phase:
        case "propose" if state.task.rounds:
            return _enter(state, "critique", 1)
        case "propose":
            return _enter(state, "score", 0)
        case "critique":
            return _enter(state, "revise", state.round)
        case "revise" if state.round < state.task.rounds:
            return _enter(state.change(rounds_run=state.round), "critique", state.round + 1)
        case "revise":
            return _enter(state.change(rounds_run=state.round), "score", state.round)
        case "score":
            return conclude_with_what_there_is(state, at_ms)
        case _:
            assert_never(state.phase)


def _enter(state: Deliberation, phase: Phase, round_: int) -> Deliberation:
    entered = state.change(phase=phase, round=round_)
    asked = [agent for agent in state.agents if agent in state.candidates]
    if phase == "revise":
        asked = [agent for agent in asked if critiques_of(entered, agent)]
    return entered.change(calls=dict.fromkeys(asked, "open"))


def critiques_of(state: Deliberation, author: str) -> tuple[Critique, ...]:
    """This round's critiques of one proposal, in reviewer order."""
    by_reviewer = {call.reviewer_id: call.critiques for call in state.critiques if call.round == state.round}
    return tuple(
        critique
        for reviewer in state.agents
        for critique in by_reviewer.get(reviewer, ())
        if critique.author_id == author
    )


# --- asking ---------------------------------------------------------------------------------------------------------


def _request(state: Deliberation, agent: str) -> AgentRequested:
    labels: Mapping[str, str] = {}
    schema = None
    user: ChatMessage
    match state.phase:
        case "propose":
            user = prompts.propose(state)
        case "critique":
            labels = prompts.shuffled_labels(state, agent, state.phase, state.round)
            user, schema = prompts.critique(state, labels), prompts.critique_schema(labels)
        case "revise":
            user = prompts.revise(state, agent, critiques_of(state, agent))
        case "score":
            labels = prompts.shuffled_labels(state, agent, state.phase, state.round)
            user, schema = prompts.score(state, labels), prompts.score_schema(state, labels)
        case _:
            assert_never(state.phase)
    index = state.agents.index(agent)
    return AgentRequested(
        task_id=state.task_id,
        agent_id=agent,
        role=state.task.role,
        phase=state.phase,
        round=state.round,
        messages=(prompts.shared(state), user),
        seed=call_seed(state, index),
        num_agents=state.task.num_agents,
        deadline_at=state.deadline_at,
        diversity=index > 0 and state.phase == "propose",
        revisions=state.candidates[agent].proposal.revisions + 1 if state.phase == "revise" else 0,
        answer_schema=schema,
        labels=dict(labels),
        correlation=state.task.correlation,
    )


def call_seed(state: Deliberation, index: int) -> int | None:
    """Every call has its own offset from the seed that was asked for: 64 × round + 16 × phase + agent.

    None without one: the model draws its own, which costs vLLM less than a generator per request.
    """
    if state.task.seed is None:
        return None
    return (state.seed + 64 * state.round + 16 * PHASES.index(state.phase) + index) % 2**63
