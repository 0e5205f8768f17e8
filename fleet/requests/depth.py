"""Refuses requests that nest too deeply, without recursing into them."""

import re
from itertools import accumulate

from fleet.errors import BadRequest

MAX_DEPTH = 64
"""Deeper requests cannot be decoded safely, and no prompt needs them."""

NAMED_BYTES = 64 * 1024
"""Where the field is looked for: that takes a microsecond for each part of the request."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = tuple((byte in b"[{") - (byte in b"]}") for byte in range(256))
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}:,]', re.DOTALL)


def check_depth(data: bytes) -> None:
    """Raises `BadRequest`, which names the field, for JSON that nests deeper than `MAX_DEPTH`."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH or _depth(data) <= MAX_DEPTH:
        return
    _name_field(data[:NAMED_BYTES])
    raise BadRequest("invalid", "$", f"$: nested deeper than {MAX_DEPTH} levels")


def _depth(data: bytes) -> int:
    """Of what is JSON; what is none is found out by whoever decodes it."""
    brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _name_field(data: bytes) -> None:
    keys: list[str] = []  # the key that led to each open object's current member; "" inside an array
    last_string = ""
    top: dict[str, str] = {}
    expect_id = False
    for match in _STRUCTURE.finditer(data):
        token = match[0]
        if token[:1] == b'"':
            last_string = token[1:-1].decode("utf-8", "replace")
            if expect_id:
                top["task_id"] = last_string
                expect_id = False
        elif token in b"{[":
            keys.append("")
            if len(keys) > MAX_DEPTH:
                path = ".".join(["$", *[key for key in keys[:2] if key]])
                raise BadRequest(
                    "invalid", path, f"{path}: nested deeper than {MAX_DEPTH} levels", task_id=top.get("task_id")
                )
        elif token in b"}]":
            if keys:
                keys.pop()
        elif token == b":" and keys:
            keys[-1] = last_string
            expect_id = len(keys) == 1 and last_string == "task_id"
        elif token == b",":
            expect_id = False
