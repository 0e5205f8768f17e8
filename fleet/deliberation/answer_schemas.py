"""Builds the JSON Schemas of agents' answers. A reason comes before the verdict that it leads to.

Criteria are asked for in turn: at each place of a review another one comes first. Each proposal stands once at each
place, so that what the order of criteria does to scores it does to all proposals alike.
"""

from collections.abc import Collection
from typing import Any

from fleet.deliberation.rating.scoring import weights
from fleet.deliberation.state import Deliberation

MAX_RATIONALES = 60
"""More scores than this in one answer come without rationales: it would not end within any usual max_tokens."""
MAX_POINT_CHARACTERS = 240
"""Bounds a runaway model. (vLLM's grammar knows no escaped quotes or line breaks within such a bound.)"""
_SCORE = {"type": "integer", "minimum": 0, "maximum": 10}
_SENTENCE = {"type": "string", "maxLength": MAX_POINT_CHARACTERS}


def points_each(proposals: int) -> int:
    """Strengths, weaknesses and changes to list for each: fewer for many, so that an answer keeps its length."""
    return 3 if proposals <= 4 else 2 if proposals <= 8 else 1


def with_rationales(state: Deliberation, labels: Collection[str]) -> bool:
    """Whether each score comes with a sentence."""
    return state.task.rationales and len(labels) * len(weights(state.rubric)) <= MAX_RATIONALES


def critique(state: Deliberation, labels: Collection[str]) -> dict[str, Any]:
    """By label: points, and the scores of the text as it stands by criterion."""
    points = {"type": "array", "items": _SENTENCE, "maxItems": points_each(len(labels))}
    reviews = {}
    for place, label in enumerate(labels):
        scores = _object(dict.fromkeys(_in_turn(weights(state.rubric), place), _SCORE))
        reviews[label] = _object({"strengths": points, "weaknesses": points, "changes": points, "scores": scores})
    return _object(reviews)


def score(state: Deliberation, labels: Collection[str]) -> dict[str, Any]:
    """By label: a score by criterion, and whether each requirement is met."""
    rubric = weights(state.rubric)
    criterion = _object({"rationale": _SENTENCE, "score": _SCORE}) if with_rationales(state, labels) else _SCORE
    coverage = {}
    if state.task.requirements:
        numbers = (f"R{number}" for number in range(1, len(state.task.requirements) + 1))
        coverage[_requirements_key(rubric)] = _object({number: {"type": "boolean"} for number in numbers})
    cards = {}
    for place, label in enumerate(labels):
        criteria = dict.fromkeys(_in_turn(rubric, place), criterion)
        cards[label] = _object({**criteria, **coverage})
    return _object(cards)


def _in_turn(criteria: Collection[str], place: int) -> list[str]:
    """Another one first at each place."""
    names = list(criteria)
    first = place % len(names)
    return names[first:] + names[:first]


def choice(labels: Collection[str]) -> dict[str, Any]:
    """One label, after a reason."""
    return _object({"rationale": _SENTENCE, "best": {"type": "string", "enum": list(labels)}})


def _requirements_key(rubric: Collection[str]) -> str:
    key = "requirements_met"
    while key in rubric:
        key += "_"
    return key


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
