"""Reads JSON that a model wrote: found in the text around it, read without guessing, validated by a schema."""

import ast
import html
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from fleet.errors import AgentCallError
from fleet.requests import schemas
from fleet.undecodable import why_undecodable
from workers.llm.failures import invalid, shorten

MAX_VALIDATORS = 256
"""Compiled ones that are kept: the calls of a deliberation share a few schemas."""

_FENCED = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<inside>.*?)^[ \t]*(?P=fence)[ \t]*$", re.M | re.S)
_ONE_LINE_FENCE = re.compile(r"(`{3,})(?:json)?\s*(?P<inside>[{\[].*[}\]])\s*\1", re.IGNORECASE | re.DOTALL)
_SMART_QUOTES = str.maketrans({"\u00a0": " ", "\u3000": " ", "“": '"', "”": '"', "„": '"', "‟": '"', "″": '"'})
_STRING = r'"(?:[^"\\]|\\.)*"'
_STRING_OR_BRACKET = re.compile(rf"{_STRING}|[{{}}\[\]]", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"({_STRING})|,(\s*[}}\]])", re.DOTALL)
_MISSING_COMMA = re.compile(rf'({_STRING})|([}}\]])(\s*")', re.DOTALL)
_PYTHON = re.compile(r"\b(?:None|True|False)\b")
_COMMENT = re.compile(rf"({_STRING})|//[^\n]*|/\*.*?\*/|(?m:^\s*#[^\n]*$)", re.DOTALL)


class Contradiction:
    """Stands for a value that was given twice, differently."""


CONTRADICTION = Contradiction()


def parse(content: str, schema: dict[str, Any]) -> Any:
    """The JSON value in `content`, to the letter of a schema that a client has set; fences and prose around it do no
    harm. Raises `AgentCallError` (InvalidAnswer).
    """
    try:
        value = json.loads(json_text(content), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be escaped, and never be sent on
        problems = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    except (ValueError, RecursionError) as error:
        raise invalid(why_undecodable(error, json_text(content))) from None
    for problem in problems:
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.instance_path)
        raise invalid(f"${path}: {problem.message}")
    return value


def json_text(content: str) -> str:
    """`content` without what stands around its JSON, which is left as the model wrote it."""
    text = content.strip().lstrip("\ufeff")
    for candidate in _candidates(text):
        try:
            json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return candidate
    return text


def read(content: str) -> Any:
    """The value in `content`, forms that are nearly JSON included; several objects are one. A key that was given twice
    with different values is a `CONTRADICTION`. Raises `AgentCallError` (InvalidAnswer).
    """
    text = content.strip().lstrip("\ufeff")
    problem = "there is none"
    several = _several(text)
    for candidate in [text] if several is not None else _candidates(text):
        for form in _forms(candidate):
            try:
                value = json.loads(form, strict=False, object_pairs_hook=_without_contradictions, parse_constant=_none)
            except (ValueError, RecursionError) as error:
                problem = str(error)
                continue
            if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
                return read(value)
            if isinstance(value, dict | list):
                return value
    if several is not None:
        return several
    raise invalid(f"not JSON: {problem}")


def _candidates(text: str) -> Iterator[str]:
    """The text, what is fenced in it, and each span of brackets that closes, longest first."""
    yield text
    for fenced in (*_FENCED.finditer(text), *_ONE_LINE_FENCE.finditer(text)):
        yield fenced["inside"].strip()
    spans = _spans(text)
    yield from sorted(spans, key=len, reverse=True)[:5]
    first = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if first > 0 and not spans:
        yield text[first:]


def _spans(text: str) -> list[str]:
    """Top-level `{…}` and `[…]`, by brackets outside of strings."""
    spans, depth, start, in_string, escaped = [], 0, 0, False, False
    for index, char in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"' and depth:
            in_string = True
        elif char in "{[":
            if depth == 0:
                start = index
            depth += 1
        elif char in "}]" and depth:
            depth -= 1
            if depth == 0:
                spans.append(text[start : index + 1])
    return spans


def _forms(text: str) -> Iterator[str]:
    """The text, and what it plainly means where it is nearly JSON."""
    yield text
    if not text.lstrip().startswith(("{", "[", '"')):
        return
    if "\\n" in text or '\\"' in text:
        yield text.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t")
    plain = html.unescape(text) if '"' not in text and "&quot;" in text else text
    plain = plain.translate(_SMART_QUOTES)
    plain = _COMMENT.sub(lambda match: match[1] or "", plain)
    plain = _TRAILING_COMMA.sub(lambda match: match[1] or match[2], plain)
    plain = _MISSING_COMMA.sub(lambda match: match[1] or f"{match[2]},{match[3]}", plain)
    if plain != text:
        yield plain
    if "'" in plain or _PYTHON.search(plain):
        try:
            yield json.dumps(ast.literal_eval(_as_python(plain)))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return
    if (closed := _closed(plain)) is not None:
        yield closed


def _closed(text: str) -> str | None:
    """With the brackets that a model forgot behind its last object. Anything else may have gone on."""
    text = text.rstrip()
    if not text.endswith("}"):
        return None
    open_: list[str] = []
    for bracket in _STRING_OR_BRACKET.findall(text):
        if bracket in "{[":
            open_.append("}" if bracket == "{" else "]")
        elif bracket in "}]" and (not open_ or open_.pop() != bracket):
            return None
    return text + "".join(reversed(open_)) if open_ else None


def _as_python(text: str) -> str:
    return re.sub(
        r"\b(true|false|null)\b", lambda match: {"true": "True", "false": "False", "null": "None"}[match[1]], text
    )


def _several(text: str) -> dict[str, Any] | None:
    """Objects one after the other, put into one; None where there are not two."""
    pairs: list[tuple[str, Any]] = []
    objects = 0
    for span in _spans(text):
        for form in _forms(span):
            try:
                value = json.loads(form, strict=False, object_pairs_hook=_without_contradictions, parse_constant=_none)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                pairs += value.items()
                objects += 1
            break
    return _without_contradictions(pairs) if objects > 1 else None


def _without_contradictions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        value[key] = item if key not in value or value[key] == item else CONTRADICTION
    return value


def _none(_: str) -> None:
    """NaN and its like: no number."""


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


@lru_cache(maxsize=MAX_VALIDATORS)
def _validator(schema: str) -> Any:
    """One per schema, whatever the order of its keys. Raises `AgentCallError` (BadRequest)."""
    try:
        return schemas.compile_schema(json.loads(schema))
    except ValueError as error:
        raise AgentCallError("BadRequest", f"answer_schema: {shorten(str(error))}", retryable=False) from None
