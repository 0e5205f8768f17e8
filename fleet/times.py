"""Converts times on the wire: RFC 3339 in UTC with milliseconds. Inside, milliseconds since 1970."""

from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(at_ms: int) -> str:
    """`1767225600123` -> `2026-01-01T00:00:00.123Z`."""
    second, ms = divmod(at_ms, 1000)
    return f"{_to_the_second(second)}.{ms:03d}Z"


def from_rfc3339(text: str) -> int:
    """The inverse of `rfc3339`; ValueError for anything that is no time."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@lru_cache(maxsize=16)
def _to_the_second(at_s: int) -> str:
    """Most times that a process writes are of the same second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
