"""Chooses the words of a report: for phases, for what decided, for how sure a verdict is."""

import re
from collections.abc import Mapping
from math import tanh
from typing import Final

from fleet.messages import DecidedBy, DeliberationCompleted, Phase, Reward

PHASES: Final[Mapping[Phase, str]] = {
    "propose": "proposing",
    "critique": "review",
    "revise": "revision",
    "score": "scoring",
    "vote": "voting",
    "compare": "comparing",
    "choose": "choosing",
    "synthesise": "merging",
}
DECIDED_BY: Final[Mapping[DecidedBy, str]] = {
    "score": "the better score decided",
    "votes": "the number of votes decided",
    "comparison": "reviewers compared them pair by pair, in both orders, and that decided",
    "checks": "the number of failed checks decided",
    "borda": "each reviewer's own order of the proposals decided",
    "text_hash": "nothing separated them, so that the order is arbitrary",
    "agent_order": "nothing separated them, so that the order is arbitrary",
    "architect": "the architect's choice decided",
}
COUNCIL: Final = (
    "Each agent is a language model that was asked on its own. It first writes a proposal. In every round each agent "
    "reviews the proposals of the others without knowing who wrote them, and each author may rewrite its own. At the "
    "end each agent scores all proposals but its own.",
    "Scores go from 0 to 10. They are corrected for reviewers who are harsher or milder than others, and for "
    "reviewers of the same model as the author. So the score of a proposal is not simply the mean of what its "
    "reviewers gave.",
    "All of it is the opinion of language models. That they agree does not make a text right. Checks look for mistakes "
    "that a program can find; they run nothing.",
)
MOST, MANY, HALF = 0.9, 0.7, 0.5
_ESCAPES = re.compile(
    r"(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))|\\\\|\\(?P<sign>[_*#~<>])", re.DOTALL
)


def agreement(event: DeliberationCompleted) -> str:
    """How sure the verdict is, as far as reviewers can tell."""
    if len(event.ranked) == 1:
        return "There was nothing to compare it with."
    if event.ranking.method == "vote" and event.comparisons:
        votes = [result.votes or 0 for result in event.ranked]
        return f"It had {votes[0]} of {sum(votes)} votes, the next one {votes[1]}."
    chance = event.ranked[0].p_best
    if chance is None:
        return "Nobody judged between the proposals, so this is an order and no verdict."
    words = "fairly sure" if chance >= MOST else "likely" if chance >= MANY else "open" if chance > HALF else "not sure"
    return (
        f"That it is the best of them is {words}: the chance is {chance:.0%}, by how far its lead and the agreement of "
        "the reviewers go."
    )


def number(value: float | None, digits: int = 2) -> str:
    """As people write it; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def rewarded(reward: Reward) -> str:
    """What a judge gave, and what that is."""
    if reward.kind == "generative_scoring":
        chance = (1 + tanh(reward.value / 2)) / 2  # the logistic function, which never overflows
        return f"{number(reward.value)}, the log-odds that it answers Yes ({chance:.1%})"
    return f"{number(reward.value)}, the number of a reward model"


def reason(text: str) -> str:
    r"""What a model gave as a reason. It writes Markdown: its `\_` and `\*` mean `_` and `*`, but not in code."""
    return _ESCAPES.sub(lambda match: match["sign"] or match[0], text)
