"""Stores once what all calls of a deliberation repeat, where it is long; the calls refer to it then.

A client's bytes would else be stored once for each call of each round.
"""

from collections.abc import Sequence
from typing import Any

from fleet.jetstream.payloads import Texts
from fleet.messages import AgentRequested, ContentRef, Policy, encode

PART_BYTES = 4 * 1024
"""A longer part is stored apart: the first message's content, the schema of the answer, the policy."""
CORRELATION_BYTES = 256
"""Less, since it stands in the answers too, which stay for a day."""


class CallParts:
    """Of the calls that one process hands to the workers."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    async def stored(self, calls: Sequence[AgentRequested]) -> list[AgentRequested]:
        """The same calls, with references for what is long. Raises what the object store raises."""
        known: dict[bytes, ContentRef] = {}
        return [await self._refer(call, known) for call in calls]

    async def _refer(self, call: AgentRequested, known: dict[bytes, ContentRef]) -> AgentRequested:
        name = f"calls/{call.task_id}"
        changes: dict[str, Any] = {}
        if (ref := await self._put(f"{name}/shared", call.shared.encode(), PART_BYTES, known)) is not None:
            call = call.with_shared("", ref)
        if call.answer_schema is not None:
            schema = encode(call.answer_schema)
            if (ref := await self._put(f"{name}/schema", schema, PART_BYTES, known)) is not None:
                changes |= {"answer_schema": None, "answer_schema_ref": ref}
        if (ref := await self._put(f"{name}/policy", encode(call.policy), PART_BYTES, known)) is not None:
            changes |= {"policy": Policy(), "policy_ref": ref}
        # As long as the answers that refer to it.
        correlation = encode(call.correlation)
        name = f"answers/{call.task_id}/correlation"
        if (ref := await self._put(name, correlation, CORRELATION_BYTES, known)) is not None:
            changes |= {"correlation": {}, "correlation_ref": ref}
        return call.change(**changes)

    async def _put(self, name: str, body: bytes, limit: int, known: dict[bytes, ContentRef]) -> ContentRef | None:
        """None where it is short enough to stay in the call."""
        if len(body) <= limit:
            return None
        if body not in known:
            known[body] = await self._texts.put(name, body)
        return known[body]
