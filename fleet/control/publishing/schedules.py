"""Takes scheduled deadlines back. Each stands for a deliberation in progress: one that is left keeps a place.

A deadline is stored after the calls. A call that is answered at once may end its task before that. Then there is
nothing to take back yet, and it is looked for again. Where this process dies meanwhile, it stays until it is due.
"""

import asyncio
import json
from typing import Final

import msgspec
import structlog
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from fleet import subjects
from fleet.deliberation.state import Deliberation
from fleet.event_loop import log_failure
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.lasting import Connection
from fleet.messages import UNDECODABLE, DeadlineReached, decode

log = structlog.get_logger(__name__)

AGAIN_AFTER_S: Final = (1.0, 10.0)
"""One after the other; in between lies what a dispatcher waits for NATS to store a message."""
TIMEOUT_S: Final = 5.0


class _Purged(msgspec.Struct):
    """What NATS answers."""

    error: dict[str, object] | None = None
    purged: int = 0


class Schedules:
    """Of one process."""

    def __init__(self, nc: Connection, js: JetStreamContext) -> None:
        self._nc = nc
        self._js = js
        self._looking: set[asyncio.Task[None]] = set()

    async def take_back(self, state: Deliberation) -> None:
        """Of an ended task. Raises what NATS does."""
        in_time = state.status != "TIMEOUT"  # else it is what has ended the task
        if await self._purge(state.task_id) == 0 and in_time:
            look = asyncio.create_task(self._look_again(state.task_id, state.run), name=f"schedule {state.task_id}")
            self._looking.add(look)
            look.add_done_callback(self._looking.discard)
            look.add_done_callback(log_failure)

    async def _look_again(self, task_id: str, run: str) -> None:
        for pause_s in AGAIN_AFTER_S:
            await asyncio.sleep(pause_s)
            try:
                found = await self._js.get_last_msg(subjects.DELIBERATION_CONTROL, subjects.schedule_of(task_id))
                if decode(found.data or b"", DeadlineReached).run == run:  # else the id is another request's by now
                    await self._purge(task_id, found.seq)
                return
            except NotFoundError:
                pass
            except (*OUTAGES, *UNDECODABLE) as error:
                log.info("deadline.not_taken_back", task_id=task_id, error=repr(error))

    async def _purge(self, task_id: str, up_to: int | None = None) -> int:
        """How many there were. `up_to`: a sequence; None: all."""
        asked = {"filter": subjects.schedule_of(task_id)} | ({} if up_to is None else {"seq": up_to + 1})
        subject = subjects.purge_of(subjects.DELIBERATION_CONTROL)
        reply = await self._nc.request(subject, json.dumps(asked).encode(), timeout=TIMEOUT_S)
        said = msgspec.json.decode(reply.data, type=_Purged)
        if said.error is not None:
            raise APIError.from_error(said.error)
        return said.purged
