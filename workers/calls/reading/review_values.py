"""Reads single values of a review as models write them: a score, a reason, points, requirements."""

import re
from typing import Any

from workers.calls.reading.structured import CONTRADICTION

_SCORE = re.compile(r"(?P<score>\d{1,2}(?:[.,]\d+)?)\s*(?:(?:/|out of|of|von|sur|de)\s*10(?:\.0)?|points?|pts?)?", re.I)
_SCORE_KEYS = ("score", "rating", "value", "points", "grade", "mark")
_REASON_KEYS = ("rationale", "reason", "reasoning", "comment", "justification", "explanation", "why")
_POINT_KEYS = ("text", "point", "change", "strength", "weakness", "description", "content")
_BOOLEANS = {"true": True, "yes": True, "met": True, "false": False, "no": False, "not met": False, "unmet": False}


def score_of(value: Any) -> float | None:
    """0 … 10, or None for what is no such number."""
    value = _score_in(_score_in(value))  # a score with its reason may be one with what was drawn
    if isinstance(value, str):
        match = _SCORE.fullmatch(value.strip().strip("*`"))
        value = float(match["score"].replace(",", ".")) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 10 else None


def drawn_of(value: Any) -> float | None:
    """What was written, where the score is an expected one (`DigitOdds.with_expected`); else None."""
    if isinstance(value, dict) and "drawn" not in value:
        value = _score_in(value)
    return score_of(value.get("drawn")) if isinstance(value, dict) else None


def what_is_wrong(value: Any) -> str:
    if value is CONTRADICTION:
        return "contradicts itself"
    return f"expected a score from 0 to 10, not {_score_in(value)!r}"[:120]


def reason_of(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return next((value[key] for key in _REASON_KEYS if isinstance(value.get(key), str)), "")


def requirements_of(value: dict[str, Any]) -> tuple[bool, ...]:
    """In the order of their numbers; empty where one of them is neither met nor not."""
    answers = []
    for _, met in sorted(value.items(), key=lambda item: int(item[0][1:])):
        if isinstance(met, dict):
            met = next((each for each in met.values() if isinstance(each, bool)), None)
        answer = met if isinstance(met, bool) else _BOOLEANS.get(str(met).strip().lower())
        if answer is None:
            return ()
        answers.append(answer)
    return tuple(answers)


def points_of(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return ()
    points = []
    for item in value:
        if isinstance(item, dict):
            item = next((item[key] for key in _POINT_KEYS if isinstance(item.get(key), str)), None)
        if isinstance(item, str) and item.strip():
            points.append(item.strip())
    return tuple(points)


def _score_in(value: Any) -> Any:
    """The score of an object that has a reason beside it; anything else as it is."""
    return next((value[key] for key in _SCORE_KEYS if key in value), None) if isinstance(value, dict) else value
