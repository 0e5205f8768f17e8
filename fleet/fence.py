"""Whether what a process has sent may still be on its way.

A message that was written into a link that then fell silent arrives when the link speaks again, and core subscribers
see it even if its stream has it already. So nobody repeats a terminal event while the process that decided it may still
publish it: that process is asked, and its answer leaves by the connection that its events leave by, so that whatever it
had sent before has arrived. A process that is gone has no subscription any more, and NATS says so at once. One that is
silent is waited for: NATS closes its connection after some pings, and then nothing of it can arrive.
"""

import uuid
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleet import subjects
from fleet.errors import StillOut

ANSWER_WITHIN_S = 1.0
IDLE, BUSY = b"idle", b"busy"


class Fence:
    """Of one process; `nc` is the connection that its events leave by."""

    def __init__(self, nc: Client) -> None:
        self.instance = uuid.uuid4().hex[:12]
        self._nc = nc

    async def start(self, works_on: Callable[[str], bool]) -> None:
        """Answers the others from now on. `works_on`: whether this process is busy with a task."""

        async def answer(msg: Msg) -> None:
            busy = bool(msg.data) and works_on(msg.data.decode(errors="replace"))
            await msg.respond(BUSY if busy else IDLE)

        await self._nc.subscribe(subjects.instance_of(self.instance), cb=answer)
        await self._nc.flush()

    async def wait_for(self, instance: str, task_id: str) -> None:
        """Returns once nothing that `instance` has sent about the task can still arrive. Raises `StillOut`."""
        own = instance == self.instance
        try:
            # To itself through the server and back: of its own work it knows.
            answer = await self._nc.request(
                subjects.instance_of(instance), b"" if own else task_id.encode(), timeout=ANSWER_WITHIN_S
            )
        except nats.errors.NoRespondersError:
            return
        except nats.errors.TimeoutError:
            raise StillOut(task_id, f"{instance} is silent") from None
        if answer.data != IDLE:
            raise StillOut(task_id, f"{instance} is at work on it")
