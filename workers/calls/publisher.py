"""Publishes responses, progress and dead letters of a worker, and reads a task's state."""

import asyncio
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.errors import FleetError
from fleet.jetstream.origin import run_of
from fleet.jetstream.payloads import Texts
from fleet.messages import (
    UNDECODABLE,
    AgentFailed,
    AgentProgress,
    AgentRequested,
    AgentResponse,
    ContentRef,
    Policy,
    decode,
    encode,
)
from fleet.messages.headers import CALL_TOKEN, headers, of_dead_letter
from fleet.messages.trace_ids import TraceContext
from fleet.observability.retries import again
from fleet.tenants.names import is_key, name_of, subject_of
from workers.calls.call_names import slot_of
from workers.calls.task_view import TaskView

log = structlog.get_logger(__name__)

SOURCE = "/fleet/worker"
KEPT_PARTS = 16
"""How many parts that calls of one deliberation share are kept in memory."""
PUBLISH_TIMEOUT_S = 5.0
PUBLISH_WITHIN_S = 30.0
LOOKUP_WITHIN_S = 2.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0


class WorkerPublisher:
    """Publishes for one worker."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._js = nc.jetstream(timeout=PUBLISH_TIMEOUT_S)
        self.texts = self._texts = Texts(self._js, lambda: nc.max_payload, store=subjects.ANSWERS)
        self._bucket: Any = None
        self._parts: dict[str, bytes] = {}

    async def inline(self, body: bytes) -> bytes:
        """A request's body, from the object store if the message only refers to it."""
        async with asyncio.timeout(PUBLISH_WITHIN_S):
            return await self._texts.inline(body)

    async def with_parts(self, request: AgentRequested) -> AgentRequested:
        """The request with what it refers to, wherever that lies; `correlation` is of no use here."""
        changes: dict[str, Any] = {}
        if (ref := request.answer_schema_ref) is not None:
            changes["answer_schema"] = msgspec.json.decode(await self._part(ref))
        if (ref := request.policy_ref) is not None:
            changes["policy"] = decode(await self._part(ref), Policy)
        if (ref := request.shared_ref) is not None:
            request = request.with_shared((await self._part(ref)).decode())
        return request.change(**changes)

    async def _part(self, ref: ContentRef) -> bytes:
        """What the calls of one deliberation share. Raises `MissingText`."""
        if (part := self._parts.get(ref.name)) is None:
            async with asyncio.timeout(PUBLISH_WITHIN_S):
                part = await self._texts.get(ref)
            self._parts[ref.name] = part
            while len(self._parts) > KEPT_PARTS:
                del self._parts[next(iter(self._parts))]
        return part

    async def respond(self, response: AgentResponse, trace: TraceContext, call: Msg) -> bool:
        """Returns once JetStream has stored the response; False if it did not within `PUBLISH_WITHIN_S`. `trace`: the
        call's span; `call`: the message that is answered.
        """
        subject = subjects.AGENT_FAILED if isinstance(response, AgentFailed) else subjects.AGENT_COMPLETED
        msg_id = response.msg_id
        msg_headers = headers(subject, msg_id, SOURCE, response.task_id, str(trace))
        if token := (call.headers or {}).get(CALL_TOKEN):
            # Nobody else knows it, so nobody can have published another answer under this id.
            msg_headers |= {CALL_TOKEN: token, "Nats-Msg-Id": f"{msg_id}.{token}"}
        body = encode(response)

        async def publish() -> None:
            nonlocal body
            if self._texts.too_large(body):
                body = await self._referring(response, body, msg_id)
            await self._js.publish(subject, body, headers=msg_headers)

        try:
            async with asyncio.timeout(PUBLISH_WITHIN_S):
                await again(
                    "response.publish",
                    publish,
                    on=(nats.errors.Error, OSError),
                    first_s=FIRST_PAUSE_S,
                    longest_s=LONGEST_PAUSE_S,
                )
        except TimeoutError:
            return False
        return True

    async def report(self, event: AgentProgress, number: int, traceparent: str) -> None:
        """Publishes without waiting for an acknowledgement: the memory stream may be gone."""
        msg_id = f"{event.msg_id}.p{number}"
        tenant, task_id = name_of(event.task_id)
        msg_headers = headers(subjects.AGENT_PROGRESS, msg_id, SOURCE, task_id, traceparent)
        subject = subject_of(tenant, subjects.AGENT_PROGRESS)
        try:
            await self._nc.publish(subject, encode(event.change(task_id=task_id)), headers=msg_headers)
        except (nats.errors.Error, OSError) as error:
            log.debug("progress.not_published", task_id=event.task_id, error=type(error).__name__)

    async def tell(self, subject: str, what: Any) -> None:
        """Publishes something that will soon be told again."""
        try:
            await self._nc.publish(subject, encode(what))
        except (nats.errors.Error, OSError) as error:
            log.debug("status.not_published", error=type(error).__name__)

    async def forget(self, subject: str) -> None:
        """Takes back what was told: nothing is there any more that it is told of."""
        try:
            await self._nc.publish(subject, b"", headers={"KV-Operation": "DEL"})
            async with asyncio.timeout(LOOKUP_WITHIN_S):
                await self._nc.flush()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("status.not_taken_back", error=type(error).__name__)

    async def dead_letter(self, msg: Msg, reason: str) -> None:
        """Stores a message that nobody could handle, whole. Raises if the dead letter could not be stored."""
        meta = msg.metadata
        stream, sequence = meta.stream, meta.sequence.stream
        msg_headers = of_dead_letter(msg.headers, stream=stream, sequence=sequence, run=run_of(msg), reason=reason)
        body = await self._texts.preserve(f"deadletters/{stream}-{sequence}", msg.data)
        await self._js.publish(subjects.deadletter_of(msg.subject), body, headers=msg_headers)

    async def task_view(self, task_id: str) -> TaskView | None:
        """None: there is no such task, or its state cannot be read now."""
        if not is_key(task_id):
            return None  # NATS would close the connection over a name that is too long
        try:
            async with asyncio.timeout(LOOKUP_WITHIN_S):
                if self._bucket is None:
                    self._bucket = await self._js.key_value(subjects.BUCKET)
                entry = await self._bucket.get(task_id)
                return decode(entry.value or b"", TaskView)
        except KeyNotFoundError:
            return None
        except (nats.errors.Error, FleetError, OSError, TimeoutError, *UNDECODABLE) as error:
            log.warning("state.unreadable", task_id=task_id, error=type(error).__name__)
            return None

    async def _referring(self, response: AgentResponse, body: bytes, msg_id: str) -> bytes:
        """A message that refers to `body`, which is stored in the object store: the collector reads it from there."""
        status = response.__struct_config__.tag
        top = {**slot_of(response), "attempt": response.attempt, "status": status, "duration_ms": response.duration_ms}
        return await self._texts.refer(f"answers/{msg_id}", body, top)


def age_s(msg: Msg) -> float:
    """Seconds since the stream stored the message."""
    return now_ms() / 1000 - float(msg.metadata.timestamp.timestamp())
