"""What a model wrote becomes the answer of its phase: free text, or JSON that satisfies the call's schema."""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import msgspec

from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, CriterionScore, Critique, Scorecard
from workers.failures import shorten

_FENCE = "```"


def parse(content: str, schema: dict[str, Any]) -> Any:
    """The JSON value in `content`, which may stand in a ```json fence. Raises `AgentCallError` (InvalidAnswer)."""
    try:
        # Not strict: models write raw line breaks into strings, and their meaning is plain.
        value = json.loads(_unfenced(content), strict=False)
    except (ValueError, RecursionError) as error:
        raise invalid(f"not JSON: {error}") from None
    try:
        validator = jsonschema_rs.validator_for(schema)
    except ValueError as error:
        raise AgentCallError("BadRequest", f"answer_schema: {shorten(str(error))}", retryable=False) from None
    for problem in validator.iter_errors(value):
        if problem.schema_path and problem.schema_path[-1] == "maxLength":
            continue  # vLLM's own grammar overshoots by a character or two: no reason to spend another call
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.instance_path)
        raise invalid(f"${path}: {problem.message}")
    return value


def critiques(value: Any, labels: Mapping[str, str]) -> tuple[Critique, ...]:
    """`{"A": {"strengths": […], …}}` by author. Raises `AgentCallError` (InvalidAnswer)."""
    return tuple(
        _convert({**review, "author_id": labels[label]}, Critique) for label, review in _labelled(value, labels)
    )


def scores(value: Any, labels: Mapping[str, str]) -> tuple[Scorecard, ...]:
    """`{"A": {"criterion": {"rationale": …, "score": …}}}` by author. Raises `AgentCallError` (InvalidAnswer)."""
    return tuple(
        Scorecard(author_id=labels[label], criteria=_convert(card, dict[str, CriterionScore]))
        for label, card in _labelled(value, labels)
    )


def check(request: AgentRequested, content: str) -> Any:
    """The parsed answer of a call, None where text is the answer. Raises `AgentCallError` (InvalidAnswer)."""
    if request.phase == "critique":
        return critiques(parse(content, request.answer_schema or {}), request.labels)
    if request.phase == "score":
        return scores(parse(content, request.answer_schema or {}), request.labels)
    return parse(content, request.answer_schema) if request.answer_schema is not None else None


def invalid(what: str) -> AgentCallError:
    """The model answered, but not what was asked for: it is told so and asked again."""
    return AgentCallError("InvalidAnswer", shorten(what), retryable=True)


def _labelled(value: Any, labels: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise invalid("expected a JSON object of objects, keyed by label")
    return [(label, item) for label, item in value.items() if label in labels]


def _convert(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


def _unfenced(content: str) -> str:
    text = content.strip()
    if not text.startswith(_FENCE):
        return text
    return text.partition("\n")[2].strip().removesuffix(_FENCE)
