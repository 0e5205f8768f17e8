"""Looks up what NATS holds of a task that a call names: its state, its waiting request, its rejection."""

import asyncio
import time

from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.control.component import Component
from fleet.control.items import Item, PublishAgain, Ticket
from fleet.control.service.calls import NO_RECEIPT, Receipt, ServiceFault, fault, task_id_of
from fleet.control.service.last_hour import LastHour
from fleet.control.service.waiters import Waiters, request_key
from fleet.control.service.waiting import WaitingRequests
from fleet.deliberation.conclusion import spent
from fleet.deliberation.state import Deliberation
from fleet.errors import BadRequest, UnreadableState
from fleet.jetstream.connection import OUTAGES
from fleet.messages import DeliberationRejected, ResultReply, decode
from fleet.observability.retries import again
from fleet.requests.by_reference import whole_request
from fleet.tenants.names import key_of, name_of, requests_of

LOOK_WITHIN_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 0.1, 0.5
COMPARED_WITHIN_S, COMPARED_PAUSE_S = 5.0, 0.05


def result_of(state: Deliberation) -> ResultReply:
    """What `deliberation.result` answers of a task that has a state."""
    used = {} if state.ended else spent(state)
    return ResultReply(
        task_id=state.name.task_id,
        status=state.status,
        progress=state.progress,
        result=state.result,
        accepted_at=state.accepted_at,
        deadline_at=state.deadline_at,
        correlation=state.task.correlation,
        usage=used.get("usage"),
        cost=used.get("cost"),
    )


class Lookup:
    """Reads states, requests and rejections. Changes nothing."""

    def __init__(self, component: Component, waiters: Waiters) -> None:
        self._component = component
        self._waiters = waiters
        self._waiting: dict[str, WaitingRequests] = {}
        self._history = LastHour(component.js, component.texts)

    def waiting(self, tenant: str) -> WaitingRequests:
        """The requests of a tenant that no dispatcher has recorded."""
        return self._waiting.setdefault(tenant, WaitingRequests(self._component, tenant))

    async def load(self, key: str) -> Deliberation | None:
        """The state. Tried again while the bucket has no leader. Raises `NewerState`, `UnreadableState`: a task whose
        state was destroyed is ended.
        """
        try:
            stored = await again(
                "state.look",
                lambda: self._component.store.load(key),
                on=OUTAGES,
                within_s=LOOK_WITHIN_S,
                first_s=FIRST_PAUSE_S,
                longest_s=LONGEST_PAUSE_S,
            )
        except UnreadableState as error:
            runner = self._component.runner
            if not error.may_come and key not in runner.in_work:
                runner.submit(key, Item(PublishAgain(), Ticket()))
            raise
        return stored.state if stored else None

    async def named(self, data: bytes, tenant: str) -> str | None:
        """The task id in a request, wherever its body lies; a bad body is for the dispatcher to reject."""
        try:
            return task_id_of(await whole_request(data, 0, self._component.texts, tenant))
        except BadRequest:
            return None

    async def pending(self, key: str) -> ResultReply:
        """Of a task without a state: 404 unless its request waits in the stream."""
        tenant, task_id = name_of(key)
        if await self.waiting(tenant).sequence_of(task_id) is not None:
            return ResultReply(task_id=task_id, status="PENDING")
        if state := await self.load(key):  # recorded in between, and only then taken off the stream
            return result_of(state)
        raise fault(404, f"no task {task_id}", task_id=task_id, status="UNKNOWN")

    async def is_stored(self, tenant: str, sequence: int) -> bool:
        """Whether the request still waits in its stream; true where NATS does not say."""
        try:
            await self._component.js.get_msg(requests_of(tenant), seq=sequence)
        except NotFoundError:
            return False
        except OUTAGES:
            pass
        return True

    def refuse_rejected(self, tenant: str, receipt: Receipt) -> None:
        """Raises `ServiceFault` for a request whose rejection is known."""
        if rejection := self._waiters.rejection(tenant, receipt):
            body = decode(rejection, DeliberationRejected)
            raise ServiceFault(409 if body.code == "conflict" else 400, body.error, body)

    async def look_for_rejection(self, tenant: str, receipt: Receipt) -> None:
        """Reads the events of the last hour: only where the event itself may have been missed."""
        if self._waiters.rejection(tenant, receipt) is None:
            missed = await self._history.rejection(tenant, receipt)
            if missed is not None:
                self._waiters.note_rejection(missed)

    async def was_accepted(self, key: str) -> bool:
        """Whether `deliberation.accepted` of this task stands in the events of the last hour."""
        return await self._history.was_accepted(key)


class Submission:
    """A request that was published, and the state that answers it."""

    def __init__(self, lookup: Lookup, tenant: str, task_id: str, receipt: Receipt = NO_RECEIPT) -> None:
        self._lookup = lookup
        self._accepted = False
        self._compared = receipt.sequence == 0
        self._tenant = tenant
        self.task_id = task_id
        # What is no id names nothing: such a request is rejected.
        self.key = key_of(tenant, task_id) if subjects.is_task_id(task_id) else ""
        self.receipt = receipt

    @property
    def keys(self) -> tuple[str, str]:
        """What to register a waiter for."""
        return self.key, request_key(self._tenant, self.receipt)

    async def state_within(self, seconds: float, *, missed: bool) -> Deliberation | None:
        """`state`; None also while NATS does not answer."""
        try:
            async with asyncio.timeout(seconds):
                return await self.state(missed=missed)
        except OUTAGES:
            return None

    async def state(self, *, missed: bool) -> Deliberation | None:
        """The state of this request; None while there is none. Raises `ServiceFault` for one that was rejected.

        `missed`: its event may have been missed, so look for what became of the request.
        """
        self._lookup.refuse_rejected(self._tenant, self.receipt)
        try:
            state = await self._lookup.load(self.key)
        except UnreadableState:
            return None  # it fails, at its deadline at the latest
        if state is None:
            if missed:
                await self._find_out()
            return None
        if not self._compared and not self.began(state) and not await self._is_the_same():
            return None
        self._compared = True
        return state

    def began(self, state: Deliberation) -> bool:
        """Whether the state is that of this very request."""
        if state.run and self.receipt.message_id:
            return (state.stream_sequence, state.message_id) == (self.receipt.sequence, self.receipt.message_id)
        return state.stream_sequence == self.receipt.sequence  # from an older version, which tells no more

    async def _is_the_same(self) -> bool:
        """Whether an older task of that id answers this request: not while that may yet be a conflict.

        The dispatcher takes a request off the stream once it is compared, and rejects it before. Under an id that was
        made of the sequence it is another one's, always.
        """
        until = time.monotonic() + COMPARED_WITHIN_S
        while await self._lookup.is_stored(self._tenant, self.receipt.sequence):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(COMPARED_PAUSE_S)
        await self._lookup.look_for_rejection(self._tenant, self.receipt)
        self._lookup.refuse_rejected(self._tenant, self.receipt)
        return self.task_id != subjects.generated_id(self.receipt.sequence)

    async def _find_out(self) -> None:
        """Ends a call whose request is gone: it was rejected, or somebody took it off the stream."""
        if not self.receipt.sequence:
            await self._lookup.pending(self.key)
            return
        if self._accepted or await self._lookup.is_stored(self._tenant, self.receipt.sequence):
            return
        if await self._lookup.load(self.key) is not None:
            return  # recorded just now
        await self._lookup.look_for_rejection(self._tenant, self.receipt)
        self._lookup.refuse_rejected(self._tenant, self.receipt)
        # Its state may have been lost: then it fails at its deadline.
        self._accepted = await self._lookup.was_accepted(self.key)
        if not self._accepted:
            text = f"request {self.receipt.sequence} was taken off its stream before it was accepted"
            raise fault(404, text, task_id=self.task_id, status="UNKNOWN")
