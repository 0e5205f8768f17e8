"""Reads reviews as models write them, criterion by criterion: what is there counts, what is missing is named.

Nothing is filled in. A score is a number from 0 to 10, however it is spelt; a label or a criterion is known by its
name, whatever stands around it or its case. What contradicts itself, or is out of range, is missing.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct, structs

from fleet.messages import Choice, CriterionScore, Critique, Scorecard
from workers.calls.reading.review_values import drawn_of, points_of, reason_of, requirements_of, score_of, what_is_wrong
from workers.calls.reading.structured import CONTRADICTION, read
from workers.llm.failures import invalid

_REQUIREMENT = re.compile(r"R(\d{1,9})")
_LABEL_WORDS = re.compile(r"\b(?:proposal|option|candidate|text|answer|solution|label|entry)\b|[\W_]+", re.IGNORECASE)
_ASIDE = re.compile(r"(?<=\w) *\([^()]*\)")
_FRAME = re.compile(r"\b[0-9a-f]{8}\b")
_LABEL_KEYS = ("label", "proposal", "proposal_label", "id", "name", "option", "candidate", "key")
_CRITERION_KEYS = ("criterion", "criteria", "aspect", "dimension")
_ROW_KEYS = (*_CRITERION_KEYS, "name")
_BEST_KEYS = ("best", "choice", "winner", "vote", "chosen", "selected", "answer", "label", "proposal")
_MEMBERS = ("strengths", "weaknesses", "changes", "scores")


class Shape(Struct, frozen=True):
    """What is asked for: labels with their authors, and the criteria and the number of requirements (None: any)."""

    labels: Mapping[str, str]
    criteria: tuple[str, ...] | None = None
    requirements: int | None = None


def shape_of(labels: Mapping[str, str], schema: dict[str, Any] | None, phase: str) -> Shape:
    """From the schema of the answer, which names every criterion."""
    cards = (schema or {}).get("properties")
    if not isinstance(cards, dict) or not cards:
        return Shape(labels)
    card = next(iter(cards.values())).get("properties", {})
    if phase == "critique":
        return Shape(labels, tuple(card.get("scores", {}).get("properties", {})))
    required = [name for name, each in card.items() if _names_requirements(each.get("properties"))]
    numbers = len(card[required[0]]["properties"]) if required else 0
    return Shape(labels, tuple(name for name in card if name not in required), numbers)


def _names_requirements(properties: Any) -> bool:
    return isinstance(properties, dict) and bool(properties) and all(map(_REQUIREMENT.fullmatch, properties))


class Reviews(Struct, frozen=True):
    """What has been read: critiques or scorecards by label, and the paths of what is missing."""

    cards: Mapping[str, Critique | Scorecard]
    missing: tuple[str, ...]

    @property
    def has_any(self) -> bool:
        """Whether there is a score in it, or a point."""
        return any(
            card.criteria if isinstance(card, Scorecard) else card.scores or card.weaknesses or card.changes
            for card in self.cards.values()
        )


def read_reviews(content: str, shape: Shape, phase: str) -> Reviews:
    """Raises `AgentCallError` (InvalidAnswer) for what holds no review at all."""
    by_label = _by_label(read(content), shape.labels)
    if not by_label:
        raise invalid("expected a JSON object of objects, keyed by label")
    cards: dict[str, Critique | Scorecard] = {}
    missing: list[str] = []
    for label, author in shape.labels.items():
        if label not in by_label:
            if shape.criteria is not None:
                missing.append(f"$.{label}")
            continue
        card = by_label[label]
        if isinstance(card, list):
            card = _by_criterion(card)
        if not isinstance(card, dict):
            missing.append(f"$.{label}: contradicts itself" if card is CONTRADICTION else f"$.{label}: no object")
        elif phase == "critique":
            cards[label] = _critique(card, author, shape, f"$.{label}", missing)
        else:
            cards[label] = _scorecard(card, author, shape, f"$.{label}", missing)
    return Reviews(cards, tuple(missing))


def merged(first: Reviews | None, second: Reviews, shape: Shape) -> Reviews:
    """Both answers together: the first counts, the second fills what it lacked."""
    if first is None:
        return second
    cards: dict[str, Critique | Scorecard] = dict(second.cards)
    for label, card in first.cards.items():
        other = second.cards.get(label)
        if isinstance(card, Scorecard):
            filled = other.criteria if isinstance(other, Scorecard) else {}
            met = card.requirements_met or (other.requirements_met if isinstance(other, Scorecard) else ())
            cards[label] = structs.replace(card, criteria={**filled, **card.criteria}, requirements_met=met)
        else:
            earlier = other.scores if isinstance(other, Critique) else {}
            cards[label] = structs.replace(card, scores={**earlier, **card.scores})
    return Reviews(cards, _lacking(cards, shape))


def _lacking(cards: Mapping[str, Critique | Scorecard], shape: Shape) -> tuple[str, ...]:
    missing: list[str] = []
    for label in shape.labels:
        card = cards.get(label)
        if card is None:
            missing.append(f"$.{label}")
            continue
        scores: Collection[str] = card.criteria if isinstance(card, Scorecard) else card.scores
        missing += [f"$.{label}.{criterion}" for criterion in shape.criteria or () if criterion not in scores]
        if isinstance(card, Scorecard) and len(card.requirements_met) < (shape.requirements or 0):
            missing.append(f"$.{label}: requirements")
    return tuple(missing)


# --- labels -----------------------------------------------------------------------------------------------------------


def label_in(text: Any, labels: Collection[str]) -> str | None:
    """The label that `Proposal A`, `a`, `**A**:` or the like means."""
    if not isinstance(text, str) or len(text) > 60:
        return None
    if text in labels:
        return text
    bare = _FRAME.sub(" ", _ASIDE.sub(" ", text.replace("_", " ")))
    word = _LABEL_WORDS.sub(" ", bare).strip().upper()
    return word if word in labels else None


def _by_label(value: Any, labels: Mapping[str, str]) -> dict[str, Any]:
    """Cards by label, out of whatever is wrapped around them."""
    for _ in range(4):
        if isinstance(value, list):
            value = _from_list(value, labels)
        if not isinstance(value, dict):
            return {}
        cards: dict[str, Any] = {}
        for key, card in value.items():
            if (label := label_in(key, labels)) is not None:
                cards[label] = card if label not in cards or cards[label] == card else CONTRADICTION
        if cards:
            return cards
        inner = [item for item in value.values() if isinstance(item, dict | list)]
        if len(inner) != 1:
            return {}
        value = inner[0]
    return {}


def _from_list(items: list[Any], labels: Mapping[str, str]) -> dict[str, Any]:
    cards: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, dict):
            continue
        key = next((key for key in _LABEL_KEYS if label_in(item.get(key), labels)), None)
        criterion = next((item[name] for name in _CRITERION_KEYS if isinstance(item.get(name), str)), None)
        if key is not None and criterion is not None:
            card = cards.setdefault(str(label_in(item[key], labels)), {})
            if isinstance(card, dict):
                card[criterion] = item if criterion not in card else CONTRADICTION
            continue
        pairs = item.items() if key is None else [(item[key], {k: v for k, v in item.items() if k != key})]
        for name, card in pairs:
            cards[name] = card if name not in cards or cards[name] == card else CONTRADICTION
    return cards


def _by_criterion(rows: list[Any]) -> dict[str, Any] | None:
    """Of a card that is a list of scores, each with the name of its criterion."""
    card: dict[str, Any] = {}
    for row in rows:
        if not isinstance(row, dict):
            return None
        name = next((row[key] for key in _ROW_KEYS if isinstance(row.get(key), str)), None)
        if name is None:
            return None
        card[name] = row if name not in card else CONTRADICTION
    return card


# --- cards ------------------------------------------------------------------------------------------------------------


def _scorecard(card: dict[str, Any], author: str, shape: Shape, path: str, missing: list[str]) -> Scorecard:
    met: tuple[bool, ...] = ()
    rest = {}
    for name, value in card.items():
        if _names_requirements(value):
            met = requirements_of(value)
        else:
            rest[name] = value
    inner = next((rest[key] for key in ("scores", "criteria") if isinstance(rest.get(key), dict)), None)
    if inner is not None and "score" not in inner and not _named(rest, shape.criteria or ()):
        rest = inner
    criteria: dict[str, CriterionScore] = {}
    for name, value in _criteria(rest, shape, path, missing):
        if (score := score_of(value)) is None:
            missing.append(f"{path}.{name}: {what_is_wrong(value)}")
        else:
            criteria[name] = CriterionScore(score=score, rationale=reason_of(value), drawn=drawn_of(value))
    if shape.requirements and len(met) != shape.requirements:
        missing.append(f"{path}: whether each of R1 … R{shape.requirements} is met")
        met = ()
    return Scorecard(author_id=author, criteria=criteria, requirements_met=met)


def _critique(card: dict[str, Any], author: str, shape: Shape, path: str, missing: list[str]) -> Critique:
    scores = card.get("scores")
    if not isinstance(scores, dict):
        scores = {name: value for name, value in card.items() if name not in _MEMBERS} if shape.criteria else {}
    by_criterion: dict[str, float] = {}
    for name, value in _criteria(scores, shape, f"{path}.scores", missing):
        if (score := score_of(value)) is None:
            missing.append(f"{path}.scores.{name}: {what_is_wrong(value)}")
        else:
            by_criterion[name] = score
    strengths, weaknesses, changes = (points_of(card.get(name)) for name in _MEMBERS[:3])
    return Critique(author_id=author, strengths=strengths, weaknesses=weaknesses, changes=changes, scores=by_criterion)


def _criteria(card_values: dict[str, Any], shape: Shape, path: str, missing: list[str]) -> list[tuple[str, Any]]:
    """Pairs of criterion and value; criteria that are not asked for are left out, those not given are missing."""
    if shape.criteria is None:
        return list(card_values.items())
    named = _named(card_values, shape.criteria)
    missing += [f"{path}.{name}" for name in shape.criteria if name not in named]
    return [(name, named[name]) for name in shape.criteria if name in named]


def _named(card_values: Mapping[str, Any], criteria: Collection[str]) -> dict[str, Any]:
    plain = {_plain(name): name for name in criteria}
    cards: dict[str, Any] = {}
    for key, value in card_values.items():
        if (name := key if key in criteria else plain.get(_plain(key))) is not None:
            cards[name] = value if name not in cards or cards[name] == value else CONTRADICTION
    return cards


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


# --- choices ----------------------------------------------------------------------------------------------------------


def read_choice(content: str, labels: Mapping[str, str]) -> Choice:
    """`{"rationale": …, "best": "A"}`, or a label alone. Raises `AgentCallError` (InvalidAnswer)."""
    if (label := label_in(content.strip(), labels)) is not None:
        return Choice(author_id=labels[label])
    value = read(content)
    for _ in range(3):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), dict):
            value = next(iter(value.values()))
    if isinstance(value, dict):
        chosen = {label for key in _BEST_KEYS if (label := label_in(value.get(key), labels)) is not None}
        if len(chosen) == 1:
            return Choice(author_id=labels[chosen.pop()], rationale=reason_of(value))
    raise invalid(f"$.best: expected one of {', '.join(labels)}")
