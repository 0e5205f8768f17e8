"""Derives the ids of a deliberation's spans from what names them, so that whoever makes a span makes the same one.

A trace context is a W3C `traceparent`: `00-<trace id>-<span id>-<flags>`.
"""

import re
from hashlib import blake2b
from typing import Final, NamedTuple

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
SAMPLED: Final = "01"
_NOTHING: Final = ("0" * 32, "0" * 16)


class TraceContext(NamedTuple):
    """A span, as others are told of it."""

    trace_id: str
    span_id: str
    flags: str = SAMPLED

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def sampled(self) -> bool:
        return bool(int(self.flags, 16) & 1)

    def child(self, *names: object) -> "TraceContext":
        """A span of the same trace, whose id follows from what names it."""
        return self._replace(span_id=digest(8, self.trace_id, *names))


def context_of(traceparent: str | None) -> TraceContext | None:
    """None for what is no trace context."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or found[1] == _NOTHING[0] or found[2] == _NOTHING[1]:
        return None
    return TraceContext(found[1], found[2], found[3])


def digest(size: int, *names: object) -> str:
    """Hexadecimal, of `size` bytes; never zero in practice."""
    return blake2b("\0".join(map(str, names)).encode(errors="replace"), digest_size=size).hexdigest()
