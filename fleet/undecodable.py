"""Says in plain words why a text is no JSON or no UTF-8, and where."""

import json
import re
from typing import Any

import msgspec

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


class _NoValue(ValueError):
    pass


def why_undecodable(error: Exception, data: bytes | str) -> str:
    """For what msgspec, `json` or `str.decode` raised for `data`. JSON of another shape is told as msgspec does, with
    the field."""
    if isinstance(error, msgspec.ValidationError):
        return str(error)
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
