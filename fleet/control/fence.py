"""Whether what a process has sent may still be on its way.

A message that was written into a link that then fell silent arrives when the link speaks again, and core subscribers
see it even if its stream has it already. So nobody repeats a terminal event while the connection that it may have been
sent by is open: it is asked by name, and its answer leaves by the connection itself, so that whatever was sent before
has arrived. A connection that is gone has no subscription any more, and NATS says so at once. One that is silent is
waited for: NATS closes it after some pings that nobody answers, and then nothing of it can arrive.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import nats.errors
import structlog
from nats.aio.msg import Msg

from fleet import subjects
from fleet.config import Settings
from fleet.errors import StillOut, Unreachable
from fleet.jetstream.connection import Connection, connect
from fleet.jetstream.origin import CONTROL_INBOX, published

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 1.0
SUBSCRIBE_PAUSE_S = 0.5
IDLE, BUSY = b"idle", b"busy"


class Fence:
    """Of one process. `instance` names its connection as it is now: after a reconnect it has another name, for what was
    sent by the old one may arrive for as long as the server holds that. It is empty until the connection answers to
    its name: others would take it for gone.

    Nothing is kept for later: while the server is away publishing fails, and what had not yet left when the connection
    was lost is dropped, for somebody else may say it in the meantime.
    """

    def __init__(self, nc: Connection) -> None:
        self.instance = _name()
        self._nc = nc
        self._works_on: Callable[[str], bool] = lambda task_id: False
        self._sub: Any = None

    @classmethod
    async def connect(cls, settings: Settings, name: str) -> "Fence":
        """With a connection of its own, `nc`. Raises `Unreachable`."""
        made: list[Fence] = []

        async def lost() -> None:
            for fence in made:
                fence._lost()

        async def found() -> None:
            for fence in made:
                await fence._found()

        callbacks = {"disconnected_cb": lost, "reconnected_cb": found}
        nc = await connect(settings, name, pending_size=0, inbox_prefix=CONTROL_INBOX, **callbacks)
        made.append(cls(nc))
        return made[0]

    @property
    def nc(self) -> Connection:
        """The connection that events leave by."""
        return self._nc

    async def start(self, works_on: Callable[[str], bool]) -> None:
        """Answers from now on. `works_on`: whether this process is busy with a task. Raises `Unreachable`."""
        self._works_on = works_on
        await self._subscribe()
        try:
            await self.wait_for(self.instance, "", at_work=True)
        except StillOut:
            subject = subjects.instance_of("*")
            raise Unreachable(f"NATS delivers nothing on {subject}: may this user publish and subscribe it?") from None

    async def wait_for(self, instance: str, task_id: str, *, at_work: bool) -> None:
        """Returns once nothing that was sent about the task under this name can still arrive. Raises `StillOut`.

        `at_work`: whoever asks is the one who works on the task in this process.
        """
        own = instance == self.instance and at_work
        try:
            # To itself through the server and back.
            answer = await self._nc.request(
                subjects.instance_of(instance), b"" if own else task_id.encode(), timeout=ANSWER_WITHIN_S
            )
        except nats.errors.NoRespondersError:
            return
        except nats.errors.TimeoutError:
            raise StillOut(task_id, f"{instance} is silent") from None
        if answer.data != IDLE:
            raise StillOut(task_id, f"{instance} is at work on it")

    async def _found(self) -> None:
        while self._nc.is_connected:
            try:
                await self._subscribe()
                return
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("fence.not_subscribed", error=repr(error))
                await asyncio.sleep(SUBSCRIBE_PAUSE_S)

    async def _subscribe(self) -> None:
        self._forget_name()
        name = _name()
        self._sub = await self._nc.subscribe(subjects.instance_of(name), cb=self._answer)
        await self._nc.flush()
        self.instance = name

    async def _answer(self, msg: Msg) -> None:
        if not published(msg, subjects.instance_of(msg.subject.rpartition(".")[2])):
            return
        busy = bool(msg.data) and self._works_on(msg.data.decode(errors="replace"))
        await msg.respond(BUSY if busy else IDLE)

    def _lost(self) -> None:
        self._nc._pending.clear()
        self._nc._pending_data_size = 0
        self._forget_name()

    def _forget_name(self) -> None:
        self.instance = ""
        if self._sub is not None:  # or it would be subscribed again, and answer for bytes that it knows nothing of
            self._nc._remove_sub(self._sub._id)
            self._sub = None


def _name() -> str:
    return uuid.uuid4().hex[:12]
