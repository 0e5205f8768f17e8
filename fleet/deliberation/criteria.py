"""Says what the shipped criteria mean. A client's own criteria mean what the client says of them."""

from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "correctness": "what it says is true and what it proposes works, edge cases included",
    "completeness": "everything that the task asks for is there",
    "clarity": "a reader who knows the field can act on it without asking",
    "simplicity": "nothing is in it that the task does not need",
    "testability": "it can be tried in small parts, and it says how",
    "coverage": "it looks at what can break: edge cases, concurrency, bad input, failures",
    "reproducibility": "another person who follows it gets the same outcome",
    "soundness": "the structure carries the load, the failures and the growth that the task implies",
    "trade_offs": "it weighs real alternatives, and says what was decided against and why",
    "operability": "it can be deployed, observed, changed and rolled back by those who run it",
    "reliability": "it keeps working, or fails safely, when parts of it do not",
    "security": "it gives away no access, data or secret that it need not",
    "integrity": "data stays right through errors, repetition, concurrency and migration",
    "performance": "its cost in time, memory and money fits the load that the task implies",
}
ANCHORS = (
    "0 useless, 2 wrong, 5 works in part with a major gap, 7 sound with minor gaps, 9 nothing material is missing, 10 "
    "could not be better. Use the whole scale: two score alike only if you could not choose between them"
)
ANGLES = (
    "Prefer the simplest solution that works.",
    "Begin with what can go wrong.",
    "Begin with the data and how it flows.",
    "Prefer what is easiest to change later.",
    "Prefer what is cheapest to run.",
    "Begin with those who will use it.",
    "Prefer proven means over new ones.",
    "Question the task's assumptions first.",
    "Begin with the hardest part.",
    "Prefer what can be delivered in small steps.",
    "Begin with the interfaces.",
    "Prefer what is easiest to test.",
    "Begin with a worked example.",
    "Compare two very different ways first, then choose.",
    "Begin with the limits: load, time, money, people.",
    "Prefer what needs the fewest people to keep it running.",
)
"""One for each agent, under `options.diversity`."""


def meaning(name: str, own: Mapping[str, str], *, shipped: bool) -> str:
    """What a criterion means; empty: nobody says. `shipped`: the rubric is a role's, or the default one."""
    return own.get(name) or (MEANINGS.get(name, "") if shipped else "")
