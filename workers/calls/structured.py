"""JSON that a model wrote: read, and held against its schema."""

import json
from functools import lru_cache
from typing import Any

from fleet.errors import AgentCallError
from fleet.requests import schemas
from workers.llm.failures import invalid, shorten

MAX_VALIDATORS = 256
"""Compiled ones that are kept: the calls of a deliberation share a few schemas."""

_FENCE = "```"


def parse(content: str, schema: dict[str, Any], *, strict: bool = False) -> Any:
    """The JSON value in `content`, which may stand in a ```json fence. Raises `AgentCallError` (InvalidAnswer).

    Unless `strict`, raw line breaks within strings are taken (their meaning is plain), and strings that are too long
    (vLLM's own grammar overshoots by a character or two): neither is a reason to spend another call.
    """
    try:
        value = json.loads(unfenced(content), strict=strict, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be escaped, and never be sent on
        problems = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    except (ValueError, RecursionError) as error:
        raise invalid(f"not JSON: {error}") from None
    for problem in problems:
        if not strict and problem.schema_path and problem.schema_path[-1] == "maxLength":
            continue
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.instance_path)
        raise invalid(f"${path}: {problem.message}")
    return value


def unfenced(content: str) -> str:
    """`content` without blank space and a fence around it."""
    text = content.strip()
    if not text.startswith(_FENCE):
        return text
    return text.partition("\n")[2].strip().removesuffix(_FENCE).rstrip()


@lru_cache(maxsize=MAX_VALIDATORS)
def _validator(schema: str) -> Any:
    """One per schema, whatever the order of its keys. Raises `AgentCallError` (BadRequest)."""
    try:
        return schemas.compile_schema(json.loads(schema))
    except ValueError as error:
        raise AgentCallError("BadRequest", f"answer_schema: {shorten(str(error))}", retryable=False) from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")
