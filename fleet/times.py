"""Times on the wire: RFC 3339 in UTC with milliseconds. Inside, milliseconds since 1970."""

from datetime import UTC, datetime


def rfc3339(at_ms: int) -> str:
    """`1767225600123` -> `2026-01-01T00:00:00.123Z`."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def from_rfc3339(text: str) -> int:
    """The inverse of `rfc3339`; ValueError for anything that is no time."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
