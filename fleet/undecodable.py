"""Says in plain words why a text is no JSON or no UTF-8, and where; or which field of it breaks which rule."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect

LARGEST = 1024 * 1024
"""Bytes of what is read a second time, to find the place."""
_WORDS = {
    "Expecting value": "a value is expected",
    "Expecting property name enclosed in double quotes": "a name in double quotes is expected",
    "Expecting ':' delimiter": "a `:` is expected after the name",
    "Expecting ',' delimiter": "a `,` or the closing bracket is expected",
    "Illegal trailing comma before end of array": "a `,` stands before the closing bracket",
    "Illegal trailing comma before end of object": "a `,` stands before the closing bracket",
    "Unterminated string starting at": 'the string that begins there has no closing `"`',
    "Invalid control character at": r"a string holds a line end or a control character: write \n and its like",
    "Invalid \\escape": "no character may be escaped like that",
    "Invalid \\uXXXX escape": r"\u needs four hexadecimal digits",
    "Extra data": "something follows after the end",
}
"""What `json` says, letter by letter -> in plain words."""
_HALF = "one half of a surrogate pair stands alone"
_TOO_DEEP = "it is nested too deeply"
_BYTE = re.compile(r"^(?:JSON is malformed: )?(?P<what>.*?)(?: \(byte (?P<at>\d+)\))?$", re.DOTALL)


_AT = re.compile(r" - at `(?:key` in `)?(?P<path>[^`]*)`\Z")
_STEP = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>[^`]*)`")
_KIND = re.compile(r"Expected `(?P<kinds>[^`]*)`(?:, got `(?P<got>[^`]*)`)?")
_SIZE = re.compile(r"Expected `(?:int|float)` (?P<sign>[<>]=?|that's a multiple of) (?P<bound>\S+)")
_LENGTH = re.compile(
    r"Expected `(?P<kind>\w+)` of (?:at (?P<end>least|most) )?length (?P<sign>[<>]=)? ?(?P<bound>\d+(?: to \d+)?)"
    r"(?:, got \d+)?"
)
_CHOICE = re.compile(r"Invalid (?:enum )?value .*", re.DOTALL)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_UNITS = {"str": "character", "object": "field", "bytes": "byte"}
_SIGNS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_UNKNOWN = object()


class _NoValue(ValueError):
    pass


def why_undecodable(error: Exception, data: bytes | str) -> str:
    """For what msgspec, `json` or `str.decode` raised for `data`."""
    if isinstance(error, msgspec.ValidationError):
        return broken_rule(str(error), _json(data) if len(data) <= LARGEST else _UNKNOWN)
    if isinstance(error, RecursionError):
        return f"not JSON: {_TOO_DEEP}"
    if isinstance(error, UnicodeEncodeError):
        return f"not JSON: {_HALF}"
    body = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    try:
        text = body.decode()
    except UnicodeDecodeError as fault:
        where = _place(body[: fault.start].decode())
        return f"not UTF-8: byte 0x{body[fault.start]:02x} in {where}; encode it as UTF-8"
    return f"not JSON: {(len(body) <= LARGEST and _fault_in(text)) or _as_told(error, body)}"


def in_words(error: json.JSONDecodeError) -> str:
    """What is wrong, without the place."""
    return _WORDS.get(error.msg, error.msg)


def _fault_in(text: str) -> str:
    """Empty if `json` finds none."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _HALF
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            return "it begins with a byte order mark; save it without one"
        if error.pos >= len(text.rstrip()):
            return f"it ends too early, in {_place(text[: error.pos])}"
        return f"{in_words(error)}, in {_place(text[: error.pos])}"
    except _NoValue as error:
        return str(error)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:  # Python reads no longer ones
        return "a number has too many digits"
    return ""


def _as_told(error: Exception, body: bytes) -> str:
    match = _BYTE.match(str(error))
    assert match is not None
    if match["at"] is None:
        return match["what"]
    return f"{match['what']}, in {_place(body[: int(match['at'])].decode(errors='replace'))}"


def _refuse(constant: str) -> Any:
    raise _NoValue(f"{constant} is no value of JSON")


def _place(before: str) -> str:
    """Where what follows `before` stands."""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def broken_rule(problem: str, body: Any = _UNKNOWN, kind: Any = None, path: str | None = None) -> str:
    """What msgspec says of JSON that is no `kind`, as `$.field: the rule, and the value that breaks it`.

    `path`: where that is, if the caller knows better. Only of a number, true, false or null the value is told, and of
    others their length: the text goes into logs.
    """
    at, rule = located(problem)
    path = path or at
    if " - at `key` in `" in problem:
        return f"{path}: a name in it {_in_plain_words(rule, _UNKNOWN)}"
    value = _value_at(path, body)
    if _CHOICE.fullmatch(rule):
        choices = ", ".join(map(str, _choices(kind, path))) if kind is not None else ""
        return f"{path}: expected one of {choices}" if choices else f"{path}: not one of the values that it may have"
    return f"{path}: {_in_plain_words(rule, value)}"


def located(problem: str) -> tuple[str, str]:
    """Path and rule of what msgspec says. The path of a field that is missing, or is unknown, is its own."""
    at = _AT.search(problem)
    path, rule = (at["path"], problem[: at.start()]) if at else ("$", problem)
    if field := _FIELD.match(rule):
        path = f"{path}.{field['name']}"
    return path, rule


def _in_plain_words(rule: str, value: Any) -> str:
    if field := _FIELD.fullmatch(rule):
        return "must be given, and is missing" if field["how"] == "missing required" else "there is no such field"
    if match := _SIZE.fullmatch(rule):
        told = f", and is {json.dumps(value)}" if isinstance(value, int | float) else ""
        return f"must be {_SIGNS.get(match['sign'], 'a multiple of')} {match['bound'].removesuffix('.0')}{told}"
    if match := _LENGTH.fullmatch(rule):
        bound = f"at {match['end']}" if match["end"] else _SIGNS.get(match["sign"], "")
        unit = _UNITS.get(match["kind"], "entry")
        units = unit if match["bound"] == "1" else "entries" if unit == "entry" else f"{unit}s"
        told = f", and has {len(value):,}" if isinstance(value, str | list | dict) else ""
        return f"must have {' '.join(filter(None, (bound, match['bound'], units)))}{told}"
    if match := _KIND.fullmatch(rule):
        expected = " or ".join(_KINDS.get(kind, kind) for kind in match["kinds"].split(" | "))
        got = json.dumps(value) if value is None or isinstance(value, int | float) else _KINDS.get(match["got"])
        return f"expected {expected}{f', got {got}' if got else ''}"
    return rule


def _json(data: bytes | str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _UNKNOWN


def _steps(path: str) -> Iterator[str | int]:
    return (step["name"] or int(step["index"]) for step in _STEP.finditer(path))


def _value_at(path: str, body: Any) -> Any:
    if "[...]" in path:  # of some key: msgspec does not say which
        return _UNKNOWN
    for step in _steps(path):
        try:
            body = body[step]
        except (KeyError, IndexError, TypeError):
            return _UNKNOWN
    return body


def _choices(kind: Any, path: str) -> list[Any]:
    """The values that may stand there, where these are a list."""
    places = list(_alternatives(msgspec.inspect.type_info(kind)))
    for step in _steps(path):
        places = [part for place in places for inner in _inside(place, step) for part in _alternatives(inner)]
    return [value for place in places if isinstance(place, msgspec.inspect.LiteralType) for value in place.values]


def _alternatives(place: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    if isinstance(place, msgspec.inspect.UnionType):
        for each in place.types:
            yield from _alternatives(each)
    elif isinstance(place, msgspec.inspect.Metadata):
        yield from _alternatives(place.type)
    else:
        yield place


def _inside(place: msgspec.inspect.Type, step: str | int) -> Iterator[msgspec.inspect.Type]:
    if isinstance(place, msgspec.inspect.StructType):
        yield from (field.type for field in place.fields if field.encode_name == step)
    elif isinstance(place, msgspec.inspect.DictType):
        yield place.value_type
    elif isinstance(place, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        yield place.item_type
