"""Tells whether there are dead letters that an operator has to look at: a client was told of its own mistake."""

from typing import Any

from fleet.cli.doctor.findings import Finding, some

LOOKED_AT = 200
"""Messages at the end of their stream. Somebody was told of older ones when they came."""


async def letters(nc: Any, count: int) -> Finding:
    """`count`: how many there are. Requests that broke a rule alone are no reason to do anything."""
    if not count:
        return Finding("ok", "dead letters", "none")
    seen = await _kinds(nc)
    rejected = seen.count("rejected")
    told = f"{some(rejected, 'request')} that broke a rule, as their clients were told (`fleet deadletter list`)"
    if rejected and rejected == len(seen):
        older = f"; {some(count - rejected, 'older message')}, not looked at" if count > rejected else ""
        return Finding("ok", "dead letters", f"{told}{older}")
    what = f"{some(count - rejected, 'message')} that nobody could handle"
    todo = "see `fleet deadletter list`; replay or drop them"
    return Finding("warn", "dead letters", f"{what}, and {told}" if rejected else what, todo)


async def _kinds(nc: Any) -> list[str]:
    """As far as this user may see."""
    from nats.errors import Error

    from fleet.client.dead_letters import all_of
    from fleet.control.telemetry.metering import kind_of_letter

    kinds: list[str] = []
    try:
        async for letter in all_of(nc.jetstream(), LOOKED_AT):
            kinds.append(kind_of_letter(letter.reason))
    except (Error, TimeoutError):
        return []
    return kinds
