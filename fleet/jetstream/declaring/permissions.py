"""Checks whether NATS lets this user serve as a component, and names what is missing.

A version of the fleet may need more than the last one, and whose server still has the file of that one would see
timeouts, each of another part.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from fleet import subjects
from fleet.jetstream.rights import COMPONENTS, rights_of
from fleet.jetstream.streams import User
from fleet.logger import Logger

log = Logger(__name__)

WITHIN_S = 5.0
AT_START_WITHIN_S = 1.0
FILE = "deploy/nats/permissions.conf"


async def tell_lacking(nc: Any, user: User) -> None:
    """Logs what a component of this kind needs, and its user may not."""
    granted = await granted_to(nc, AT_START_WITHIN_S)
    if granted is not None and (lacking := denied(granted)[user]):
        log.error("permissions.lacking", user=user, lacking=lacking, see=FILE)


async def granted_to(nc: Any, within_s: float = WITHIN_S) -> dict[str, Any] | None:
    """What this user may do; None where the server does not say.

    Behind a leaf node the server at its other end answers too, and tells what the leaf's own connection may do.
    """
    from nats.errors import Error

    replies: asyncio.Queue[Any] = asyncio.Queue()
    inbox = nc.new_inbox()
    try:
        subscription = await nc.subscribe(inbox, cb=replies.put)
        try:
            async with asyncio.timeout(within_s):
                await nc.publish("$SYS.REQ.USER.INFO", b"", reply=inbox)
                while True:
                    reply = json.loads((await replies.get()).data)
                    if reply["server"]["id"] == nc.server_id:
                        return reply["data"].get("permissions") or {}
        finally:
            await subscription.unsubscribe()
    except (Error, TimeoutError, ValueError, KeyError):
        return None


def allowed(rules: dict[str, list[str]] | None, subject: str) -> bool:
    """What NATS would decide of a subject, or of all that a pattern covers; no rules, or none of a kind, allow all."""
    rules = rules or {}
    allow, deny = rules.get("allow"), rules.get("deny") or []
    return (not allow or any(_covers(rule, subject) for rule in allow)) and not any(
        _covers(rule, subject) for rule in deny
    )


def denied(granted: dict[str, Any]) -> dict[User, list[str]]:
    """Component -> what it would need, and this user may not."""
    return {user: list(_denied(granted, user)) for user in COMPONENTS}


def _denied(granted: dict[str, Any], user: User) -> Iterator[str]:
    rights = rights_of(user)
    for verb, patterns in (("publish", rights.publish), ("subscribe", rights.subscribe)):
        yield from (f"{verb} {each}" for each in sorted(patterns) if not allowed(granted.get(verb), each))


def _covers(rule: str, subject: str) -> bool:
    """A rule may name a queue group behind its pattern."""
    return subjects.covers(rule.split(" ")[0], subject)
