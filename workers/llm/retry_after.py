"""Reads how long a server asks to be left alone, in all the ways in which servers say so."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_EPOCH_FROM_S = 1e9
"""A number as large as this is a time, not a duration."""
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_IN_WORDS = re.compile(
    r"(?:try again in|retry (?:after|in)|retrydelay\"?:? ?\"?|wait)\s*"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|s|m|h|d)\s*)+|\d+(?:\.\d+)?)",
    re.IGNORECASE,
)


def seconds_in(text: str | None, now: datetime) -> float | None:
    """From seconds, `8s`, `1m3.5s`, `250ms`, a date or a time since 1970; None for anything else."""
    if text is None or not (text := text.strip()):
        return None
    try:
        number = float(text)
    except ValueError:
        parts = _PART.findall(text.lower())
        if parts and not _PART.sub("", text.lower()).strip():
            return sum(float(amount) * _UNITS_S[unit] for amount, unit in parts)
        at = _date(text)
        return None if at is None else max(0.0, (at - now).total_seconds())
    if not math.isfinite(number) or number < 0:
        return None
    return max(0.0, number - now.timestamp()) if number >= _EPOCH_FROM_S else number


def _date(text: str) -> datetime | None:
    for read in (parsedate_to_datetime, lambda value: datetime.fromisoformat(value.replace("Z", "+00:00"))):
        try:
            at = read(text)
        except (ValueError, TypeError):
            continue
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None


def asked_wait_s(headers: Mapping[str, str], body: str, now: datetime) -> float | None:
    """Of an error response. `Retry-After` counts first, then what limits tell of themselves, then the words."""
    lower = {name.lower(): value for name, value in headers.items()}
    milliseconds = seconds_in(lower.get("retry-after-ms") or lower.get("x-ms-retry-after-ms"), now)
    if milliseconds is not None:
        return milliseconds / 1000
    for name in ("retry-after", "x-retry-after", "x-ratelimit-retry-after", "x-ratelimit-reset-after"):
        if (seconds := seconds_in(lower.get(name), now)) is not None:
            return seconds
    resets = {name: seconds_in(value, now) for name, value in lower.items() if "ratelimit" in name and "reset" in name}
    known = {name: seconds for name, seconds in resets.items() if seconds is not None}
    if known:
        spent = [seconds for name, seconds in known.items() if lower.get(name.replace("reset", "remaining")) == "0"]
        # Which limit was met is told by what remains; where that is not told, the nearest one is worth a look.
        return max(spent) if spent else min(known.values())
    match = _IN_WORDS.search(body)
    return seconds_in(match[1].strip(), now) if match else None
