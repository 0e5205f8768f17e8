"""What a phase asks, and of whom: the slots of its calls, and each call as a message for the workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, assert_never

from fleet.deliberation import answer_schemas, prompts
from fleet.deliberation.judging import final_scores, standings
from fleet.deliberation.prompts import LABELS
from fleet.deliberation.ranking import Standings, pairs_to_compare, preferring
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, ChatMessage, Comparison, Critique, Policy, slot_name

CHOOSER_ROLE = "ARCHITECT"
COMPARING_REVIEWERS = 3
"""At most so many reviewers compare a pair of tied proposals."""
_STEPS = {"propose": 0, "critique": 1, "revise": 2, "score": 3, "vote": 3, "compare": 3, "choose": 10, "synthesise": 12}
_ROUND_STRIDE, _STEP_STRIDE = 64, 16


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the current phase. `labels`: label -> author of the proposals that it shows."""

    agent_id: str
    role: str
    labels: Mapping[str, str]
    ask: int = 1

    @property
    def slot(self) -> str:
        """As that of its message."""
        return slot_name(self.agent_id, self.ask)


def calls(state: Deliberation) -> dict[str, Call]:
    """The current phase's calls by slot: a function of the state that stays the same while they are answered."""
    ranked = state.ranked_agents
    match state.phase:
        case "propose":
            found = [Call(agent, state.role_of(agent), {}) for agent in state.agents]
        case "critique" | "score" | "vote":
            found = [
                Call(agent, state.role_of(agent), prompts.shuffled_labels(state, agent, state.phase, state.round))
                for agent in ranked
            ]
        case "revise":
            found = [Call(agent, state.role_of(agent), {}) for agent in ranked if critiques_of(state, agent)]
        case "compare":
            found = _comparisons(state)
        case "choose":
            found = _choices(state)
        case "synthesise":
            order = final_standings(state).order
            found = [Call(order[0], state.role_of(order[0]), _label(order[: state.task.top_k]))]
        case _:
            assert_never(state.phase)
    return {call.slot: call for call in found}


def _comparisons(state: Deliberation) -> list[Call]:
    """Each pair of tied proposals, to reviewers who wrote neither, in both orders."""
    asked: dict[str, int] = {}
    found = []
    before_comparing = state.change(comparisons=_without(state, "compare"))
    for pair in pairs_to_compare(standings(before_comparing), state.ranked_agents):
        neutral = [agent for agent in state.ranked_agents if agent not in pair]
        Random(f"{state.seed}/compare/{'/'.join(pair)}").shuffle(neutral)
        for reviewer in neutral[:COMPARING_REVIEWERS]:
            for order in (pair, pair[::-1]):
                asked[reviewer] = asked.get(reviewer, 0) + 1
                found.append(Call(reviewer, state.role_of(reviewer), _label(order), asked[reviewer]))
    return found


def _choices(state: Deliberation) -> list[Call]:
    """The best `top_k` before an architect, in an order drawn from the seed and in the reverse."""
    best = list(standings(state).order[: state.task.top_k])
    Random(f"{state.seed}/choose").shuffle(best)
    chooser = chooser_of(state)
    return [Call(chooser, CHOOSER_ROLE, _label(order), ask) for ask, order in ((1, best), (2, best[::-1]))]


def chooser_of(state: Deliberation) -> str:
    """The architect who chooses is no member of the council: its number follows theirs."""
    members = sum(state.role_of(agent) == CHOOSER_ROLE for agent in state.agents)
    return f"agent-{CHOOSER_ROLE.lower()}-{members + 1:03d}"


def choice_of(state: Deliberation) -> tuple[str | None, bool]:
    """(the author that the architect chose in both orders, whether it contradicted itself)."""
    chosen = [given.chosen for given in state.comparisons if given.phase == "choose"]
    if len(chosen) < 2:
        return None, False
    return (chosen[0], False) if chosen[0] == chosen[1] else (None, True)


def final_standings(state: Deliberation) -> Standings:
    """The ranking, with the architect's choice in front."""
    now = standings(state)
    chosen, _ = choice_of(state)
    return now if chosen is None else preferring(now, chosen, final_scores(state))


def _without(state: Deliberation, phase: str) -> tuple[Comparison, ...]:
    return tuple(given for given in state.comparisons if given.phase != phase)


def _label(authors: tuple[str, ...] | list[str]) -> dict[str, str]:
    return dict(zip(LABELS, authors, strict=False))


def critiques_of(state: Deliberation, author: str) -> tuple[Critique, ...]:
    """This round's critiques of one proposal, in reviewer order."""
    by_reviewer = {call.reviewer_id: call.critiques for call in state.critiques if call.round == state.round}
    return tuple(
        critique
        for reviewer in state.agents
        for critique in by_reviewer.get(reviewer, ())
        if critique.author_id == author
    )


def request(state: Deliberation, call: Call) -> AgentRequested:
    """The message for the workers."""
    user, schema = _question(state, call)
    writes = state.phase in ("propose", "revise")
    member = call.agent_id in state.agents
    index = state.agents.index(call.agent_id) if member else 0
    return AgentRequested(
        task_id=state.task_id,
        agent_id=call.agent_id,
        role=call.role,
        phase=state.phase,
        round=state.round,
        ask=call.ask,
        messages=(prompts.shared(state), user),
        seed=call_seed(state, index, call.ask),
        model=state.model_of(call.agent_id) if member else None,
        num_agents=state.task.num_agents,
        deadline_at=state.deadline_at,
        diversity=index > 0 and state.phase == "propose",
        revisions=state.candidates[call.agent_id].proposal.revisions + 1 if state.phase == "revise" else 0,
        answer_schema=schema,
        labels=dict(call.labels),
        policy=state.task.policy if writes else Policy(),
        correlation=state.task.correlation,
    )


def _question(state: Deliberation, call: Call) -> tuple[ChatMessage, dict[str, Any] | None]:
    """The last message, and the schema of its answer (None: free text)."""
    match state.phase:
        case "propose":
            return prompts.propose(state), state.task.output_schema
        case "critique":
            return prompts.critique(state, call.labels), answer_schemas.critique(state, call.labels)
        case "revise":
            critiques = critiques_of(state, call.agent_id)
            return prompts.revise(state, call.agent_id, critiques), state.task.output_schema
        case "score":
            return prompts.score(state, call.labels), answer_schemas.score(state, call.labels)
        case "vote":
            return prompts.vote(state, call.labels), answer_schemas.choice(call.labels)
        case "compare":
            return prompts.compare(state, call.labels), answer_schemas.choice(call.labels)
        case "choose":
            return prompts.choose(state, call.labels), answer_schemas.choice(call.labels)
        case "synthesise":
            return prompts.synthesise(state, call.labels), None
        case _:
            assert_never(state.phase)


def call_seed(state: Deliberation, index: int, ask: int = 1) -> int | None:
    """Every call has its own offset from the seed that was asked for: 64 × round + 16 × step + agent.

    None without one: the model draws its own, which costs vLLM less than a generator per request.
    """
    if state.task.seed is None:
        return None
    step = _STEPS[state.phase] + (ask if state.phase == "compare" else ask - 1)
    return (state.seed + _ROUND_STRIDE * state.round + _STEP_STRIDE * step + index) % 2**63
