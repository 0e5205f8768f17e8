"""Tolerates what clients' encoders write: integral floats for integers, and fields that mean nothing here."""

import msgspec

from fleet.messages import UNDECODABLE, encode
from fleet.requests.fields import Constraints, DeliberationRequested

INTEGERS = (("num_agents",), ("rounds",), ("options", "seed"), ("options", "top_k"), ("options", "max_total_tokens"))
"""Where a request has integers. JSON has one kind of number, so 3.0 is one too."""
MAX_NAMES, MAX_NAME_CHARACTERS = 20, 64


def with_integers(data: bytes) -> bytes | None:
    """The request with its integral floats as integers; None if there are none."""
    try:
        body = msgspec.json.decode(data)
    except UNDECODABLE:
        return None
    changed = False
    for *parents, name in INTEGERS:
        part = body
        for parent in parents:
            part = part.get(parent) if isinstance(part, dict) else None
        value = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(value, float) and value.is_integer():
            part[name] = int(value)
            changed = True
    return encode(body) if changed else None


def ignored_fields(data: bytes) -> tuple[str, ...]:
    """The names of fields that are unknown, at the top and in `constraints`: at most `MAX_NAMES`, long ones cut."""
    body = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    names = [name for name in body if name not in DeliberationRequested.__struct_fields__]
    constraints = msgspec.json.decode(body.get("constraints", msgspec.Raw(b"null")), type=dict[str, msgspec.Raw] | None)
    names += [f"constraints.{name}" for name in constraints or {} if name not in Constraints.__struct_fields__]
    return tuple(_shown(name) for name in names[:MAX_NAMES])


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[:MAX_NAME_CHARACTERS]}…"
