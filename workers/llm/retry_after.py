"""Reads how long a server asks to be left alone, in all the ways in which servers say so."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_EPOCH_FROM_S, _EPOCH_FROM_MS = 1e9, 1e12
"""A number as large as this is a time, not a duration."""
_NUMBER = r"\d+(?:\.\d+)?"
_UNIT = r"(?:ms(?:ecs?)?|milli(?:second)?s?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])"
_PART = re.compile(rf"({_NUMBER})\s*({_UNIT})(?:,|\s|and\b)*", re.IGNORECASE)
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ISO = re.compile(rf"P(?:({_NUMBER})D)?(?:T(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?", re.IGNORECASE)
_IN_WORDS = re.compile(
    r"(?:try again in|retry[ _]?(?:after|in|delay)(?:_s(?:ec(?:ond)?s)?)?|wait(?: for| at least)?)[\"']?[:=]?\s*[\"']?"
    rf"((?:{_PART.pattern})+|{_NUMBER})",
    re.IGNORECASE,
)
_MILLISECONDS = re.compile(rf"retry_?after_?ms[\"']?\s*[:=]\s*[\"']?({_NUMBER})", re.IGNORECASE)
_LEFT = re.compile(r"\b(?:r|remaining)=(\d+)")
_RESET = re.compile(r"\b(?:t|reset)=(\d+)")
"""Of the header `RateLimit`, in the forms of its drafts: `limit=10, remaining=0, reset=2` and `"default";r=0;t=2`."""


def seconds_in(text: str | None, now: datetime) -> float | None:
    """From seconds, `8s`, `1m3.5s`, `2 minutes`, `PT8S`, a date or a time since 1970; None for anything else."""
    if text is None or not (text := text.strip().strip("\"'")):
        return None
    try:
        number = float(text)
    except ValueError:
        if (parts := _parts(text)) is not None:
            return parts
        if (at := _date(text)) is not None:
            return max(0.0, (at - now).total_seconds())
        several = [seconds_in(each, now) for each in text.split(",")] if "," in text else []
        return max((each for each in several if each is not None), default=None)
    if not math.isfinite(number) or number < 0:
        return None
    if number >= _EPOCH_FROM_MS:
        number /= 1000
    return max(0.0, number - now.timestamp()) if number >= _EPOCH_FROM_S else number


def _parts(text: str) -> float | None:
    """Of a duration that is written with its units."""
    if (iso := _ISO.fullmatch(text)) and any(iso.groups()):
        return sum(float(part or 0) * unit for part, unit in zip(iso.groups(), (86400, 3600, 60, 1), strict=True))
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        return None
    return sum(float(amount) * _unit_s(unit.lower()) for amount, unit in parts)


def _unit_s(unit: str) -> float:
    return 0.001 if unit.startswith(("ms", "mil")) else _UNITS_S[unit[0]]


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
    if (reset := _RESET.search(lower.get("ratelimit", ""))) is not None:
        left = _LEFT.search(lower["ratelimit"])
        if left is None or left[1] == "0":
            return float(reset[1])
    if (match := _MILLISECONDS.search(body)) is not None:
        return float(match[1]) / 1000
    match = _IN_WORDS.search(body)
    return seconds_in(match[1], now) if match else None
