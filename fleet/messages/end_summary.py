"""The header `Task-Summary` of terminal events: what a list shows, for whoever reads headers alone.

A result may be a megabyte. A list of thousands needs a few words of each.
"""

from collections import Counter
from typing import Any, Final

import msgspec

from fleet.messages.base import Message, Status
from fleet.messages.deliberations import (
    DeliberationCancelled,
    DeliberationCompleted,
    TerminalEvent,
    status_of,
)
from fleet.messages.usage import TotalUsage
from fleet.tenants.names import DEFAULT_TENANT

HEADER: Final = "Task-Summary"
MAX_TEXT: Final = 120
"""Characters of a text: what is longer ends with `…`."""
MAX_CORRELATION_BYTES: Final = 256


class EndSummary(Message, frozen=True, kw_only=True):
    """How a deliberation ended. `question`, `error`: their beginning, in one line. `failures`: calls that ended in
    error, by error type. `missing`: agents without a proposal. `correlation`: empty where it is long. `score` and
    `p_best` are the winner's. `overhead_ms`: its time, less that of the longest call of each phase.
    """

    status: Status
    duration_ms: int
    overhead_ms: int | None = None
    usage: TotalUsage
    cost: float | None = None
    tenant: str = DEFAULT_TENANT
    role: str | None = None
    agents: int | None = None
    question: str = ""
    degraded: bool = False
    failures: dict[str, int] = {}
    missing: int = 0
    winner_id: str | None = None
    score: float | None = None
    p_best: float | None = None
    error: str = ""
    cached_from: str | None = None
    correlation: dict[str, str] = {}


def summary_of(event: TerminalEvent, overhead_ms: int | None = None) -> EndSummary:
    """The same facts as the event has, and its overhead."""
    facts: dict[str, Any] = {}
    if isinstance(event, DeliberationCompleted):
        first = event.results[0]
        facts = {"degraded": event.degraded, "missing": len(event.missing), "winner_id": event.winner_id}
        facts |= {"score": first.score, "p_best": first.p_best, "cached_from": event.cached_from}
    elif isinstance(event, DeliberationCancelled):
        facts = {"error": one_line(event.reason)}
    else:
        facts = {"error": one_line(event.error)}
    if not isinstance(event, DeliberationCancelled):
        facts["failures"] = dict(sorted(Counter(call.error_type for call in event.failed_agents).items()))
    if event.task is not None:
        facts |= {"role": event.task.role, "agents": event.task.num_agents}
        facts["question"] = one_line(event.task.task_description)
    fits = len(msgspec.json.encode(event.correlation)) <= MAX_CORRELATION_BYTES
    return EndSummary(
        status=status_of(event),
        duration_ms=event.duration_ms,
        overhead_ms=overhead_ms,
        usage=event.usage,
        cost=event.cost,
        tenant=event.tenant,
        correlation=event.correlation if fits else {},
        **facts,
    )


def header_of(event: TerminalEvent, overhead_ms: int | None = None) -> dict[str, str]:
    """As one line of ASCII: headers are not UTF-8 everywhere."""
    text = msgspec.json.encode(summary_of(event, overhead_ms)).decode()
    return {HEADER: "".join(char if char.isascii() and char.isprintable() else _escaped(char) for char in text)}


def one_line(text: str) -> str:
    """At most `MAX_TEXT` characters of it."""
    # The end of a long text is not looked at.
    line = " ".join(text[: 4 * MAX_TEXT].split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"


def _escaped(char: str) -> str:
    """As JSON writes it: two of them beyond the basic plane."""
    return "".join(f"\\u{unit:04x}" for unit in memoryview(char.encode("utf-16-le", "surrogatepass")).cast("H"))
