"""Bounds the size of a request, part by part and in sum: what a client sends is stored and sent on many times."""

from collections.abc import Iterator
from typing import Any

from fleet.messages import encode
from fleet.requests.fields import Constraints, DeliberationRequested, Options

KIB = 1024
LIMITS = {
    "correlation": 4 * KIB,
    "constraints.rubric": 16 * KIB,
    "constraints.architect_rubric": 16 * KIB,
    "constraints.policy": 64 * KIB,
    "constraints.requirements": 256 * KIB,
    "constraints.metadata": 2048 * KIB,
    "options.output_schema": 256 * KIB,
}
"""Bytes of JSON. All but `correlation` stand in every prompt. (`control.call_parts` stores what is long once.)"""
METADATA_VALUES = 5_000
"""JSON values: each is an object of Python in every state that is read, whatever few bytes it has."""
LIMIT_OF_ALL = 2560 * KIB
"""Bytes of JSON: `task_description` and all of `LIMITS` together."""


def too_large(request: DeliberationRequested) -> Iterator[tuple[str, str]]:
    """(path, problem) of each part that is larger than its limit, and of all of them together."""
    total = len(encode(request.task_description))
    for name, limit in LIMITS.items():
        size = _size(_part(request, name))
        total += size
        if size > limit:
            yield f"$.{name}", f"{size} bytes of JSON, at most {limit}"
    if _has_more_values(_part(request, "constraints.metadata"), METADATA_VALUES):
        yield "$.constraints.metadata", f"it has more than {METADATA_VALUES:,} values"
    if total > LIMIT_OF_ALL:
        parts = ", ".join(LIMITS)
        yield "$", f"task_description, {parts}: {total} bytes of JSON together, at most {LIMIT_OF_ALL}"


def _part(request: DeliberationRequested, name: str) -> Any:
    place, _, field = name.rpartition(".")
    holders = {
        "": request,
        "constraints": request.constraints or Constraints(),
        "options": request.options or Options(),
    }
    return getattr(holders[place], field)


def _size(part: Any) -> int:
    return 0 if part is None else len(encode(part))


def _has_more_values(part: Any, most: int) -> bool:
    """Counts no further than that."""
    count, left = 0, [part]
    while left and count <= most:
        value = left.pop()
        count += 1
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return count > most
