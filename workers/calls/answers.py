"""What a model wrote becomes the answer of its phase: free text, or JSON that satisfies the call's schema."""

import re
from collections.abc import Mapping
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from fleet.messages import DECLINE, AgentRequested, Choice, CriterionScore, Critique, Scorecard
from workers.calls.structured import parse, unfenced
from workers.llm.failures import invalid

_WORD = DECLINE.removesuffix(":")
_DECLINED = re.compile(rf"""[\s>#]*(?P<mark>[*_`"']*){_WORD}(?:(?P=mark):|:(?P=mark)|(?P<open>:))""")
_REQUIREMENT = re.compile(r"R(\d{1,9})")


class Checked(Struct, frozen=True, kw_only=True):
    """A valid answer, in the field of its kind; `proposal` and `synthesis` are texts."""

    proposal: str | None = None
    declined: str | None = None
    critiques: tuple[Critique, ...] | None = None
    scores: tuple[Scorecard, ...] | None = None
    choice: Choice | None = None
    synthesis: str | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def check(request: AgentRequested, content: str) -> Checked:
    """Raises `AgentCallError` (InvalidAnswer)."""
    schema = request.answer_schema
    match request.phase:
        case "propose":
            return Checked(proposal=_text(content, schema))
        case "revise":
            reason = declined(content) if schema is None else None
            return Checked(declined=reason) if reason else Checked(proposal=_text(content, schema))
        case "synthesise":
            return Checked(synthesis=_text(content, schema))
        case "critique":
            return Checked(critiques=critiques(parse(content, schema or {}), request.labels))
        case "score":
            return Checked(scores=scores(parse(content, schema or {}), request.labels))
        case "vote" | "compare" | "choose":
            return Checked(choice=choice(parse(content, schema or {}), request.labels))
        case _:
            assert_never(request.phase)


def declined(text: str) -> str | None:
    """The reason, for a text that begins with `DECLINE:` (in emphasis or quotes, perhaps); None for any other.

    Raises `AgentCallError` (InvalidAnswer) where no reason follows.
    """
    found = _DECLINED.match(text)
    if found is None:
        return None
    reason = text[found.end() :].strip()
    if found["open"]:
        reason = reason.removesuffix(found["mark"]).rstrip()
    if not reason:
        raise invalid(f"a reason must follow {DECLINE}")
    return reason


def critiques(value: Any, labels: Mapping[str, str]) -> tuple[Critique, ...]:
    """`{"A": {"strengths": […], "weaknesses": […], "changes": […], "scores": {"criterion": 7}}}` by author.

    Raises `AgentCallError` (InvalidAnswer), as the following do.
    """
    return tuple(
        _convert({**review, "author_id": labels[label]}, Critique) for label, review in _labelled(value, labels)
    )


def scores(value: Any, labels: Mapping[str, str]) -> tuple[Scorecard, ...]:
    """`{"A": {"criterion": {"rationale": …, "score": 7}, "requirements_met": {"R1": true}}}` by author.

    The requirements' member is known by its value, whatever its name.
    """
    return tuple(_scorecard(card, labels[label]) for label, card in _labelled(value, labels))


def choice(value: Any, labels: Mapping[str, str]) -> Choice:
    """`{"rationale": …, "best": "A"}`."""
    best = value.get("best") if isinstance(value, dict) else None
    if not isinstance(best, str) or best not in labels:
        raise invalid(f"$.best: expected one of {', '.join(labels)}")
    chosen: Choice = _convert({**value, "author_id": labels[best]}, Choice)
    return chosen


def _text(content: str, schema: dict[str, Any] | None) -> str:
    if schema is None:
        return content
    parse(content, schema, strict=True)  # the client's own schema: to the letter
    return unfenced(content)


def _scorecard(card: dict[str, Any], author_id: str) -> Scorecard:
    met = {name: value for name, value in card.items() if _is_requirements(value)}
    return Scorecard(
        author_id=author_id,
        criteria=_convert({name: value for name, value in card.items() if name not in met}, dict[str, CriterionScore]),
        requirements_met=tuple(
            value for given in met.values() for _, value in sorted(given.items(), key=lambda item: int(item[0][1:]))
        ),
    )


def _is_requirements(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(met, bool) and _REQUIREMENT.fullmatch(name) for name, met in value.items())
    )


def _labelled(value: Any, labels: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise invalid("expected a JSON object of objects, keyed by label")
    return [(label, item) for label, item in value.items() if label in labels]


def _convert(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
