"""A client of `deliberation.follow`, as any NATS library makes one."""

import json
from typing import Any

from fleet import subjects
from tests.support.fleets.control_plane import Fleet
from tests.support.waiting import WITHIN_S


class Follower:
    """One call of `deliberation.follow`."""

    def __init__(self, fleet: Fleet) -> None:
        self._nc = fleet.nc
        self._inbox = fleet.nc.new_inbox()
        self.replies: list[dict[str, Any]] = []
        self.codes: list[str | None] = []

    async def call(self, body: Any, subject: str = subjects.FOLLOW) -> "Follower":
        self._sub = await self._nc.subscribe(self._inbox)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self._nc.publish(subject, data, reply=self._inbox)
        return self

    async def next(self) -> dict[str, Any] | None:
        """None: the empty message."""
        msg = await self._sub.next_msg(timeout=WITHIN_S)
        if not msg.data:
            return None
        self.codes.append((msg.headers or {}).get("Nats-Service-Error-Code"))
        self.replies.append(json.loads(msg.data))
        return self.replies[-1]

    async def rest(self) -> list[dict[str, Any]]:
        while await self.next() is not None:
            pass
        return self.replies


def steps(replies: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """(phase, round, done, expected, agent, outcome) of each reply that is neither status nor end."""
    return [
        (*(reply[name] for name in ("phase", "round", "done", "expected")), reply.get("agent_id"), reply.get("outcome"))
        for reply in replies
        if "phase" in reply
    ]
