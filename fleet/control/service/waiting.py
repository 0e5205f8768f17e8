"""Finds requests that wait for room: no dispatcher has recorded them, so they have no state yet.

A request says its task id only in its body. They are read once each, and only where a call names an id without a state.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.component import Component
from fleet.control.items import Item
from fleet.control.service.calls import fault, task_id_of
from fleet.deliberation.events import CancelAsked, Requested
from fleet.errors import BadRequest
from fleet.jetstream.origin import run_of
from fleet.messages.headers import traceparent_in
from fleet.requests.by_reference import whole_request
from fleet.requests.parse import parse_request
from fleet.requests.tolerance import ignored_fields
from fleet.tenants.names import key_of, requests_of, subject_of

log = structlog.get_logger(__name__)

READ_WITHIN_S = 5.0


class WaitingRequests:
    """What stands in the stream of a tenant's requests, as far as this instance had to look."""

    def __init__(self, component: Component, tenant: str) -> None:
        self._component = component
        self._tenant = tenant
        self._stream = requests_of(tenant)
        self._reading = asyncio.Lock()
        self._read_to = 0
        self._named: dict[int, str] = {}
        self._created: datetime | None = None
        """When the stream was made: one that was restored gives out its numbers again."""

    async def sequence_of(self, task_id: str) -> int | None:
        """Where the request for this task waits; None: nowhere. Faults 503 while there are too many to look through."""
        if not subjects.is_task_id(task_id):
            return None
        if (made_of := subjects.sequence_in(task_id)) is not None:
            return made_of if await self._is_under(made_of, task_id) else None
        async with self._reading:
            await self._read()
            sequences = [sequence for sequence, name in self._named.items() if name == task_id]
        for sequence in sequences:
            # Once more: it may have been taken since it was read, or its stream may be another one.
            body = await self._body(sequence)
            if body is not None and task_id_of(body) == task_id:
                return sequence
        return None

    async def _is_under(self, sequence: int, made: str) -> bool:
        """Whether a request waits there that names no task, and has this id, the first or the second one."""
        msg = await self._get(sequence)
        if msg is None or (body := await self._whole(msg.data or b"", sequence)) is None or task_id_of(body):
            return False
        own = (msg.headers or {}).get("Nats-Msg-Id") or run_of(msg)
        return made in (subjects.generated_id(sequence), subjects.second_id(sequence, own))

    async def cancel(self, task_id: str, sequence: int, reason: str) -> None:
        """Records the request and its cancellation in one step, so that it never begins. Nothing happens to a request
        that the dispatcher is to reject.
        """
        roles = self._component.settings.roles
        try:
            msg = await self._component.js.get_msg(self._stream, seq=sequence)
            body = await whole_request(msg.data or b"", sequence, self._component.texts, self._tenant)
            _, task = parse_request(body, sequence, roles)
        except (NotFoundError, BadRequest):
            return
        sent, key = msg.headers or {}, key_of(self._tenant, task_id)
        requested = Requested(
            key,
            task,
            sequence,
            now_ms(),
            traceparent=traceparent_in(sent),
            rubric=roles[task.role].rubric,
            ignored_fields=ignored_fields(body),
            run=run_of(msg),
            message_id=sent.get("Nats-Msg-Id") or None,
        )
        delivery = _StandInDelivery(id=f"{self._stream}:{sequence}")
        self._component.runner.submit(key, Item(requested, delivery))
        self._component.runner.submit(key, Item(CancelAsked(reason, now_ms()), delivery))
        await delivery.done
        try:
            await self._component.js.delete_msg(self._stream, sequence)
        except NotFoundError:
            pass  # a dispatcher has taken it meanwhile: to it, the request is one that came again

    async def _read(self) -> None:
        """What came since the last look."""
        info = await self._component.js.stream_info(self._stream)
        state = info.state
        if state.last_seq < self._read_to or info.created != self._created:  # another stream of that name
            self._read_to, self._named, self._created = 0, {}, info.created
        for sequence in [sequence for sequence in self._named if sequence < state.first_seq]:
            del self._named[sequence]
        until = time.monotonic() + READ_WITHIN_S
        while self._read_to < state.last_seq:
            if time.monotonic() > until:
                raise fault(503, "too many requests wait to be looked through at once: ask again")
            start = max(self._read_to + 1, state.first_seq)
            try:
                msg = await self._component.js.get_msg(
                    self._stream, start, subject=subject_of(self._tenant, subjects.REQUESTED), next=True
                )
            except NotFoundError:
                self._read_to = state.last_seq
                return
            self._read_to = int(msg.seq or start)
            body = await self._whole(msg.data or b"", self._read_to)
            if body is not None and (name := task_id_of(body)):
                self._named[self._read_to] = name

    async def _body(self, sequence: int) -> bytes | None:
        """The whole request; None where it does not wait there any more, or its text is not to be had."""
        msg = await self._get(sequence)
        return None if msg is None else await self._whole(msg.data or b"", sequence)

    async def _get(self, sequence: int) -> RawStreamMsg | None:
        try:
            return await self._component.js.get_msg(self._stream, seq=sequence)
        except NotFoundError:
            return None

    async def _whole(self, data: bytes, sequence: int) -> bytes | None:
        try:
            return await whole_request(data, sequence, self._component.texts, self._tenant)
        except BadRequest:
            return None


@dataclass(slots=True)
class _StandInDelivery:
    """Stands for the request's own delivery, which may be anywhere, or nowhere yet."""

    id: str
    redelivered: bool = False
    received_at: float = field(default_factory=time.monotonic)
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def ack(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    async def retry_later(self, reason: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(reason)
