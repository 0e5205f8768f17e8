"""Refuses requests that nest too deeply, without recursing into them."""

import re
from itertools import accumulate

from fleet.errors import BadRequest

MAX_DEPTH = 64
"""Deeper requests cannot be decoded safely, and no prompt needs them."""

NAMED_BYTES = 64 * 1024
"""Where the field is looked for: that takes a microsecond for each part of the request."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BITS = bytes.maketrans(b"[{]}", b"1100")
_STEPS = [[1 if eight >> bit & 1 else -1 for bit in range(7, -1, -1)] for eight in range(256)]
_HIGHEST = [max(accumulate(steps)) for steps in _STEPS]
_AFTER = [sum(steps) for steps in _STEPS]
"""How eight brackets in a row change the depth: at most meanwhile, and in the end. A bit that is set opens."""
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}:,]', re.DOTALL)


def check_depth(data: bytes) -> None:
    """Raises `BadRequest`, which names the field, for JSON that nests deeper than `MAX_DEPTH`."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH or not _is_too_deep(data):
        return
    _name_field(data[:NAMED_BYTES])
    raise BadRequest("invalid", "$", f"$: nested deeper than {MAX_DEPTH} levels")


def _is_too_deep(data: bytes) -> bool:
    """Of what is JSON; what is none is found out by whoever decodes it. A megabyte of brackets takes some milliseconds:
    eight of them at a time.
    """
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside.translate(_BITS, _NO_BRACKETS)
    brackets += b"0" * (-len(brackets) % 8)
    level = 0
    for eight in int(brackets or b"0", 2).to_bytes(len(brackets) // 8):
        if level + _HIGHEST[eight] > MAX_DEPTH:
            return True
        level += _AFTER[eight]
    return False


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
