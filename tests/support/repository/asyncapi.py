"""The AsyncAPI document as a test sees it: which of its messages a body is, and what was recorded of them."""

import copy
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec

from fleet import __version__, asyncapi, messages, subjects

RECORDED = Path(__file__).parents[2] / "recorded"
DOCUMENT: dict[str, Any] = msgspec.json.decode(Path(asyncapi.__file__).with_suffix(".json").read_bytes())
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
        return False
    return bool(datetime.fromisoformat(value))


def _closed(schemas: Any) -> Any:
    """The schemas, but no object may have a field that they do not name: the document shows everything."""
    if isinstance(schemas, list):
        return [_closed(item) for item in schemas]
    if not isinstance(schemas, dict):
        return schemas
    closed = {key: _closed(value) for key, value in schemas.items()}
    if isinstance(closed.get("properties"), dict) and "type" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


SCHEMAS = _closed(copy.deepcopy(DOCUMENT["components"]["schemas"]))


def messages_of(channel: str) -> list[str]:
    """Names of the messages on a channel (a subject, or `<subject>.reply`)."""
    return list(DOCUMENT["channels"][channel]["messages"])


def problems(name: str, body: Any) -> list[str]:
    """What is wrong with a body as a message of this name."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}}
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    return [f"{name}: {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(body)]


def matching(names: Iterable[str], body: Any) -> list[str]:
    """Those of these messages that a body is."""
    return [name for name in names if not problems(name, body)]


def recorded(version: str) -> list[tuple[str, Any]]:
    """(channel, body) of each message that a version was recorded with."""
    files = [RECORDED / version / f"{name}.json" for name in ("messages", "interface")]
    lines = [line for file in files if file.exists() for line in msgspec.json.decode(file.read_bytes())]
    return [(channel, body) for line in lines for channel, body in line.items()]


def names_for(channel: str) -> list[str]:
    """Of the messages on a channel; `terminal` stands for the three subjects of terminal events."""
    return [
        name
        for subject in (subjects.TERMINAL if channel == "terminal" else (channel,))
        for name in messages_of(subject)
    ]


def recorded_messages() -> list[tuple[str, Any]]:
    """(name of the message, body), of all that this version was recorded with."""
    return [(name, body) for channel, body in recorded(__version__) for name in matching(names_for(channel), body)]


PHASES = {*get_args(messages.Phase)}


def type_of(schema: dict[str, Any]) -> str:
    """The type of a field in the words of `subjects.md`."""
    if "$ref" in schema:
        return _linked(schema["$ref"].rpartition("/")[2])
    if "oneOf" in schema:
        return " or ".join(type_of(option) for option in schema["oneOf"])
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return " or ".join(_plain_type(one, schema) for one in types)


def _plain_type(kind: str, schema: dict[str, Any]) -> str:
    values = [value for value in schema.get("enum", ()) if value is not None]
    match kind:
        case "string" if {*values} == PHASES:
            return "phase"
        case "string" if values:
            return " or ".join(f"`{value}`" for value in values)
        case "string":
            return "time" if schema.get("format") == "date-time" else "string"
        case "array":
            return f"list of {type_of(schema['items'])}"
        case "object" if "additionalProperties" in schema and isinstance(schema["additionalProperties"], dict):
            return f"object of {type_of(schema['additionalProperties'])}"
        case "object" if "title" in schema:
            return _linked(schema["title"])
        case _:
            return kind


def _linked(name: str) -> str:
    return f"[{name}](#fields-of-{name.lower()})"
