"""Publishes bad messages: forged, malformed, repeated. Safe on any cluster.

A forged response for an open slot could not be told from a real one, so none is made: forged ones name agents that are
not in the council, or slots whose answer is on record.
"""

import json
from random import Random
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.chaos.faults.target import Target, until_done
from fleet.chaos.schedule import Fault

MOST = 20
FORGED_TEXT = "[forged] the model never said this"
BAD_BODIES = (b"{", b"\xff\xfe\x00", b"[" * 2000, b"null", b'{"task_id": 7}', b"")


async def responses(target: Target, fault: Fault) -> str:
    """Responses that were seen lately, once more: as they were, in another order, or with other contents."""
    seen = list(target.recorder.responses)
    rng = Random(fault.chance)
    if fault.target == "late":  # of tasks that have ended, as far as one can have
        ended = {key for _, key in target.recorder.live}
        seen = [msg for msg in seen if _key(msg) in ended]
    chosen = rng.sample(seen, min(MOST, len(seen)))
    if fault.target == "duplicate":
        chosen = chosen[: MOST // 2] * 2
    if fault.target == "forged":
        forged = [body for msg in chosen if (body := await _forge(target, msg, rng)) is not None]
        return await _publish(target, subjects.AGENT_COMPLETED, forged, "forged")
    return await _publish(target, subjects.AGENT_COMPLETED, [msg.data for msg in chosen], fault.target)


async def malformed(target: Target, fault: Fault) -> str:
    """Bytes that are no message, on a subject of the fleet's own."""
    return await _publish(target, fault.target, list(BAD_BODIES), "malformed")


async def _forge(target: Target, msg: Msg, rng: Random) -> bytes | None:
    body = msgspec.json.decode(msg.data)
    body["attempt"] = body.get("attempt", 1) + 1
    if body.get("proposal"):
        body["proposal"] = {**body["proposal"], "content": FORGED_TEXT, "content_ref": None}
    for card in body.get("scores") or ():
        for criterion in card["criteria"].values():
            criterion["score"] = 10.0
    if rng.random() < 0.5:
        body["agent_id"] = "agent-forged-001"
        return _encode(body)
    return _encode(body) if await _is_closed(target, body) else None


async def _is_closed(target: Target, body: dict[str, Any]) -> bool:
    """Whether the bucket says that the slot has its answer, or that its phase is over."""

    async def look() -> bool:
        bucket = await target.nc.jetstream().key_value(subjects.BUCKET)
        try:
            value = json.loads((await bucket.get(body["task_id"])).value or b"{}")
        except NotFoundError:
            return False
        if "result" not in value:  # by reference: not worth the trouble
            return False
        if (value["phase"], value["round"]) != (body["phase"], body["round"]):
            return True
        slot = body["agent_id"] if body.get("question", 1) == 1 else f"{body['agent_id']}~{body['question']}"
        return bool(value["calls"].get(slot) != "open")

    return await until_done(look)


async def _publish(target: Target, subject: str, bodies: list[bytes], what: str) -> str:
    js = target.nc.jetstream()
    for body in bodies:
        await until_done(lambda body=body: js.publish(subject, body))  # type: ignore[misc]
    return f"{len(bodies)} {what} on {subject}"


def _key(msg: Msg) -> str:
    return str((msg.headers or {}).get("Task-Id", ""))


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
