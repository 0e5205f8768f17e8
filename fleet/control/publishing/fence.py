"""Has an earlier publisher's connection gone quiet? Only then may another process publish its terminal event again.

Bytes that were written into a silent link arrive when the link recovers, and core subscribers see them even if the
stream has the event already. So the connection that may have sent an event is asked by name, before anybody repeats it:

    it answers     by the same connection, so whatever it sent before has arrived
    it is busy     with that task: it may be about to publish
    no responders  the connection is gone, and NATS says so at once
    silence        wait: NATS closes it after some unanswered pings, and then nothing of it can arrive
"""

import uuid
from collections.abc import Container
from contextlib import suppress
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from fleet import subjects
from fleet.config import Settings
from fleet.errors import EventInFlight, Unreachable
from fleet.jetstream.connection import OUTAGES, connect
from fleet.jetstream.lasting import Connection
from fleet.jetstream.origin import CONTROL_INBOX, published
from fleet.jetstream.quirks import drop_unsent, forget_subscription
from fleet.observability.retries import again

ANSWER_WITHIN_S = 1.0
SUBSCRIBE_PAUSE_S = 0.5
IDLE, BUSY = b"idle", b"busy"


class PublisherFence:
    """Of one process. `instance` names its connection as it is now. After a reconnect it has another name, because what
    the old one sent may still arrive. It is empty while the connection does not answer to a name: others would take it
    for gone.

    Nothing is kept for later. While the server is away publishing fails; what had not left when the connection was lost
    is dropped, because another process may publish it in the meantime.
    """

    def __init__(self, nc: Connection) -> None:
        self.instance = _name()
        self._nc = nc
        self._in_work: Container[str] = ()
        self._sub: Any = None

    @classmethod
    async def connect(cls, settings: Settings, name: str) -> "PublisherFence":
        """With a connection of its own, `nc`. Raises `Unreachable`."""
        fence: PublisherFence | None = None

        async def on_disconnect() -> None:
            if fence is not None:
                fence._drop_unsent()

        async def on_reconnect() -> None:
            if fence is not None:
                await fence._answer_to_a_new_name()

        callbacks = {"disconnected_cb": on_disconnect, "reconnected_cb": on_reconnect}
        fence = cls(await connect(settings, name, pending_size=0, inbox_prefix=CONTROL_INBOX, **callbacks))
        return fence

    @property
    def nc(self) -> Connection:
        """The connection that events leave by."""
        return self._nc

    async def start(self, in_work: Container[str]) -> None:
        """Answers from now on. `in_work`: the tasks that this process is busy with. Raises `Unreachable`."""
        self._in_work = in_work
        await self._subscribe()
        try:
            await self.wait_for(self.instance, "")
        except EventInFlight:
            subject = subjects.instance_of("*")
            raise Unreachable(f"NATS delivers nothing on {subject}: may this user publish and subscribe it?") from None

    async def wait_for(self, instance: str, task_id: str) -> None:
        """Returns once nothing that was sent about the task under this name can still arrive. Raises `EventInFlight`.

        For the runner, which works on the task in this process: its own being busy with it is no reason to wait.
        """
        own = instance == self.instance
        try:
            # To itself through the server and back.
            answer = await self._nc.request(
                subjects.instance_of(instance), b"" if own else task_id.encode(), timeout=ANSWER_WITHIN_S
            )
        except nats.errors.NoRespondersError:
            return
        except nats.errors.TimeoutError:
            raise EventInFlight(task_id, f"{instance} is silent") from None
        if answer.data != IDLE:
            raise EventInFlight(task_id, f"{instance} is busy with it")

    async def _answer_to_a_new_name(self) -> None:
        with suppress(*OUTAGES):  # the connection is lost again: the next one has its own name
            await again(
                "fence.subscribe",
                self._subscribe,
                on=lambda error: isinstance(error, OUTAGES) and self._nc.is_connected,
                first_s=SUBSCRIBE_PAUSE_S,
                longest_s=SUBSCRIBE_PAUSE_S,
            )

    async def _subscribe(self) -> None:
        self._forget_name()
        name = _name()
        self._sub = await self._nc.subscribe(subjects.instance_of(name), cb=self._answer)
        await self._nc.flush()
        self.instance = name

    async def _answer(self, msg: Msg) -> None:
        if not published(msg, subjects.instance_of(msg.subject.rpartition(".")[2])):
            return
        busy = bool(msg.data) and msg.data.decode(errors="replace") in self._in_work
        await msg.respond(BUSY if busy else IDLE)

    def _drop_unsent(self) -> None:
        drop_unsent(self._nc)
        self._forget_name()

    def _forget_name(self) -> None:
        self.instance = ""
        if self._sub is not None:  # or it would be subscribed again, and answer for the old connection
            forget_subscription(self._nc, self._sub)
            self._sub = None


def _name() -> str:
    return uuid.uuid4().hex[:12]
