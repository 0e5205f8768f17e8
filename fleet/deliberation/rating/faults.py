"""Finds what is wrong with proposals beyond their scores: failed checks, missed requirements, texts that are none.

A proposal with a fault ranks behind all that have none, whatever its score: reviewers may overlook it. Missed
requirements are no fault, since reviewers say so; they cost points in proportion.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from fleet.deliberation.state import Deliberation
from fleet.messages import Check

REQUIREMENTS, TEXT = "requirements", "text"
PENALTY_POINTS = 1.0
"""What each fault takes off a score."""
REQUIREMENTS_POINTS = 2.0
"""What missing all requirements takes off; some of them: their share of it."""
LEAST_SHARE, LEAST_USUAL = 0.05, 400
"""A text is no answer when it has less than this share of the median's characters, where the median has so many."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found in a state's texts, by agent. `faulty`: whose proposals have a fault; `copies`: as `copies`."""

    checks: Mapping[str, Mapping[str, Check]]
    penalties: Mapping[str, float]
    faulty: frozenset[str]
    copies: Mapping[str, str]


def examined(state: Deliberation) -> Examined:
    """Reads every text: to be done once for all that need it."""
    usual = _usual(state)
    checks = {agent: _checks(state, agent, usual) for agent in state.ranked_agents}
    return Examined(
        checks,
        {agent: _penalty(state, of_agent) for agent, of_agent in checks.items()},
        frozenset(agent for agent, of_agent in checks.items() if faulty(of_agent)),
        copies(state),
    )


def checks_of(state: Deliberation, agent: str) -> dict[str, Check]:
    """What the worker checked, whether the text is a whole one, and the requirements as reviewers saw them."""
    return _checks(state, agent, _usual(state))


def faulty(checks: Mapping[str, Check]) -> bool:
    """Whether any check failed but the requirements."""
    return any(check.status == "failed" for name, check in checks.items() if name != REQUIREMENTS)


def copies(state: Deliberation) -> dict[str, str]:
    """Agent -> the first agent with the same text, for those who are not the first."""
    first: dict[str, str] = {}
    same = {agent: first.setdefault(_plain(state, agent), agent) for agent in state.ranked_agents}
    return {agent: original for agent, original in same.items() if agent != original}


def notes_on_copies(state: Deliberation, copied: int) -> tuple[str, ...]:
    """What to say of identical texts. `copied`: how many are as others are."""
    same = copied + 1
    if same == 1:
        return ()
    if same == len(state.candidates):
        return (
            f"all {same} proposals are the same text: a cache in front of the model server may answer for it, or the "
            "temperature is 0",
        )
    return (f"{copied} of {len(state.candidates)} proposals are copies of others, and count once",)


def findings_of(checks: Mapping[str, Check]) -> Iterable[str]:
    """`check: finding`, of the checks that failed."""
    for name, check in checks.items():
        if check.status == "failed":
            yield from (f"{name}: {finding}" for finding in check.findings)


def _checks(state: Deliberation, agent: str, usual: float) -> dict[str, Check]:
    return {**state.candidates[agent].checks, TEXT: _text(state, agent, usual), REQUIREMENTS: _coverage(state, agent)}


def _usual(state: Deliberation) -> float:
    """Characters of a text: the median."""
    lengths = [len(candidate.proposal.content.strip()) for candidate in state.candidates.values()]
    return median(lengths) if lengths else 0.0


def _plain(state: Deliberation, agent: str) -> str:
    return " ".join(state.candidates[agent].proposal.content.split())


def _penalty(state: Deliberation, checks: Mapping[str, Check]) -> float:
    failed = sum(check.status == "failed" for name, check in checks.items() if name != REQUIREMENTS)
    count = len(state.task.requirements)
    missed = len(checks[REQUIREMENTS].findings) / count if count else 0.0
    return round(PENALTY_POINTS * failed + REQUIREMENTS_POINTS * missed, 4)


def _text(state: Deliberation, agent: str, usual: float) -> Check:
    """Failed for a text that the server cut, or that is none beside those of the others."""
    content = state.candidates[agent].proposal.content.strip()
    findings = []
    if state.candidates[agent].proposal.truncated:
        findings.append("the text was cut off")
    if not any(character.isalnum() for character in content):
        findings.append("the text has no words")
    elif content.endswith(":") and "\n" not in content:
        findings.append("the text ends where it announces something")
    if state.task.output_schema is None and usual >= LEAST_USUAL and len(content) < LEAST_SHARE * usual:
        findings.append(f"the text has {len(content)} characters where half of the proposals have {usual:g} or more")
    return Check(status="failed" if findings else "passed", findings=tuple(findings))


def _coverage(state: Deliberation, agent: str) -> Check:
    """A requirement is missed when more than half of those who judged it say so."""
    requirements = state.task.requirements
    answers = [
        card.requirements_met
        for reviewer in state.agents
        for card in (*state.scores.get(reviewer, ()), *state.second_scores.get(reviewer, ()))
        if card.author_id == agent and len(card.requirements_met) == len(requirements)
    ]
    if not requirements or not answers:
        return Check(status="not_applicable")
    missed = [sum(not answer[number] for answer in answers) for number in range(len(requirements))]
    findings = tuple(
        f"R{number} is not met, say {count} of {len(answers)} reviewers: {requirements[number - 1]}"
        for number, count in enumerate(missed, start=1)
        if 2 * count > len(answers)
    )
    return Check(status="failed" if findings else "passed", findings=findings)
