"""Lists the calls of the current phase, and builds each as a message for the workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, assert_never

from fleet.deliberation import answer_schemas, prompts
from fleet.deliberation.judges import questions
from fleet.deliberation.labels import label, shuffled_labels
from fleet.deliberation.rating.judging import CHOOSER_ROLE, SYNTHESIS, chooser_of, shortlisted, standings
from fleet.deliberation.rating.ranking import pairs_to_compare
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, ChatMessage, Comparison, Critique, Judge, Policy, slot_name
from fleet.times import from_rfc3339, rfc3339

COMPARING_REVIEWERS = 3
"""At most this many reviewers compare a pair of tied proposals."""
FIRST_SYNTHESIS_QUESTION = 101
"""Comparisons of the merged text are further questions of the phase that may have compared proposals before."""
_STEPS = {"propose": 0, "critique": 1, "revise": 2, "score": 3, "vote": 3, "compare": 3, "choose": 10, "synthesise": 12}
_ROUND_STRIDE, _STEP_STRIDE = 64, 16


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the current phase. `labels`: label -> author of the proposals that it shows."""

    agent_id: str
    role: str
    labels: Mapping[str, str]
    question: int = 1
    judge: Judge | None = None

    @property
    def slot(self) -> str:
        """The slot of its message."""
        return slot_name(self.agent_id, self.question)


def calls(state: Deliberation) -> dict[str, Call]:
    """The current phase's calls by slot: a function of the state that stays the same while they are answered."""
    ranked = state.ranked_agents
    match state.phase:
        case "propose":
            phase_calls = [Call(agent, state.role_of(agent), {}) for agent in state.agents]
        case "score" if state.reading == 2:
            phase_calls = [
                Call(agent, state.role_of(agent), label(order), question=2)
                for agent, order in state.second_orders.items()
            ]
        case "critique" | "score" | "vote":
            phase_calls = [
                Call(agent, state.role_of(agent), shuffled_labels(state, agent, state.phase, state.round))
                for agent in ranked
            ]
            if state.phase == "score":
                phase_calls += _judging(state)
        case "revise":
            phase_calls = [Call(agent, state.role_of(agent), {}) for agent in ranked if critiques_of(state, agent)]
        case "compare" if state.synthesis is not None:
            phase_calls = _synthesis_comparisons(state)
        case "compare":
            phase_calls = _comparisons(state)
        case "choose":
            phase_calls = _choices(state)
        case "synthesise":
            best = shortlisted(state)
            phase_calls = [Call(best[0], state.role_of(best[0]), label(best))]
        case _:
            assert_never(state.phase)
    return {call.slot: call for call in phase_calls}


def _judging(state: Deliberation) -> list[Call]:
    """Each judge is asked of each proposal alone."""
    return [
        Call(judge.judge_id, state.task.role, label((author,)), question, judge)
        for judge in state.judges
        for question, author in enumerate(state.ranked_agents, start=1)
    ]


def _comparisons(state: Deliberation) -> list[Call]:
    """Each pair of tied proposals, to reviewers who wrote neither, in both orders."""
    numbers: dict[str, int] = {}
    comparing: list[Call] = []
    before_comparing = state.change(comparisons=_without(state, "compare"))
    for pair in pairs_to_compare(standings(before_comparing), state.ranked_agents):
        neutral = [agent for agent in state.ranked_agents if agent not in pair]
        Random(f"{state.seed}/compare/{'/'.join(pair)}").shuffle(neutral)
        for reviewer in neutral[:COMPARING_REVIEWERS]:
            for order in (pair, pair[::-1]):
                numbers[reviewer] = numbers.get(reviewer, 0) + 1
                comparing.append(Call(reviewer, state.role_of(reviewer), label(order), numbers[reviewer]))
    return comparing


def _synthesis_comparisons(state: Deliberation) -> list[Call]:
    """The merged text and the winner, in both orders, to others, if possible to those who wrote no source of it."""
    assert state.synthesis is not None
    winner = state.synthesis.author_id
    others = [agent for agent in state.ranked_agents if agent != winner]
    Random(f"{state.seed}/compare/{SYNTHESIS}").shuffle(others)
    others.sort(key=lambda agent: agent in state.synthesis.sources if state.synthesis else False)
    pair = (winner, SYNTHESIS)
    return [
        Call(reviewer, state.role_of(reviewer), label(order), question)
        for reviewer in others[:COMPARING_REVIEWERS]
        for question, order in enumerate((pair, pair[::-1]), start=FIRST_SYNTHESIS_QUESTION)
    ]


def _choices(state: Deliberation) -> list[Call]:
    """The best `top_k` before an architect, in an order drawn from the seed and in the reverse."""
    best = list(shortlisted(state.change(comparisons=_without(state, "choose"))))
    if len(best) < 2:
        return []
    Random(f"{state.seed}/choose").shuffle(best)
    chooser = chooser_of(state)
    return [Call(chooser, CHOOSER_ROLE, label(order), number) for number, order in ((1, best), (2, best[::-1]))]


def _without(state: Deliberation, phase: str) -> tuple[Comparison, ...]:
    return tuple(choice for choice in state.comparisons if choice.phase != phase)


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
    if call.judge is not None:
        return _judge_request(state, call, call.judge)
    question, schema = _question(state, call)
    writes = state.phase in ("propose", "revise")
    member = call.agent_id in state.agents
    index = state.agents.index(call.agent_id) if member else 0
    return AgentRequested(
        task_id=state.task_id,
        agent_id=call.agent_id,
        role=call.role,
        phase=state.phase,
        round=state.round,
        question=call.question,
        run=state.run,
        messages=(prompts.shared(state), *question),
        seed=call_seed(state, index, call.question),
        model=state.model_of(call.agent_id) if member else None,
        num_agents=state.task.num_agents,
        deadline_at=state.deadline_at,
        diversity=index > 0 and state.phase == "propose",
        revisions=state.candidates[call.agent_id].proposal.revisions + 1 if state.phase == "revise" else 0,
        answer_schema=schema,
        labels=dict(call.labels),
        policy=state.task.policy if writes else Policy(),
        accept_truncated=state.task.accept_truncated,
        correlation=state.task.correlation,
    )


def _judge_request(state: Deliberation, call: Call, judge: Judge) -> AgentRequested:
    """A judge has `timeout_s`, so that one that is away does not hold up the council until its deadline."""
    (author,) = call.labels.values()
    until_ms = state.record(state.phase).began_ms + round(1000 * judge.timeout_s)
    return AgentRequested(
        task_id=state.task_id,
        agent_id=call.agent_id,
        role=call.role,
        phase=state.phase,
        round=state.round,
        question=call.question,
        run=state.run,
        messages=questions.of(state, judge.kind, author),
        num_agents=state.task.num_agents,
        deadline_at=rfc3339(min(from_rfc3339(state.deadline_at), until_ms)),
        labels=dict(call.labels),
        judge=judge,
        correlation=state.task.correlation,
    )


def _question(state: Deliberation, call: Call) -> tuple[tuple[ChatMessage, ...], dict[str, Any] | None]:
    """The messages after the shared one, and the schema of the answer (None: free text)."""
    match state.phase:
        case "propose":
            return prompts.propose(state, call.agent_id), state.task.output_schema
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


def call_seed(state: Deliberation, index: int, question: int = 1) -> int | None:
    """Every call has its own offset from the seed that was asked for: 64 × round + 16 × step + agent.

    None without one: the model draws its own, which costs vLLM less than a generator per request.
    """
    if state.task.seed is None:
        return None
    step = _STEPS[state.phase] + (question if state.phase == "compare" else question - 1)
    return (state.seed + _ROUND_STRIDE * state.round + _STEP_STRIDE * step + index) % 2**63
