"""Whether terminal events are in their stream: one reading answers all who ask meanwhile.

Where a durable was lost NATS delivers again every response that its stream still holds, and each leads to this
question: to read the stream for each of them would take for ever.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.jetstream.history import events

SCAN_MARGIN = timedelta(seconds=60)
"""How far the clocks of NATS servers may differ when a terminal event is looked for by time."""
SUFFIX = ".terminal"
"""Ends the message id of every terminal event."""


@dataclass(slots=True)
class Question:
    """`since`: a moment before which the event cannot have been stored, by NATS' own clock; None: since ever."""

    since: datetime | None
    answer: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Said:
    """Of one process. Rare: only after a crash, a pause or a loss."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._questions: dict[str, Question] = {}
        self._reading: asyncio.Task[None] | None = None

    async def has_ended(self, task_id: str) -> bool:
        """Whether the stream held the task's terminal event at some time since this was called.

        Raises what NATS does.
        """
        since = await self._decided_at(task_id)
        question = self._questions.setdefault(task_id, Question(since))
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
        return await asyncio.shield(question.answer)

    async def _read_all(self) -> None:
        while self._questions:
            questions, self._questions = self._questions, {}
            try:
                await self._read(questions)
            except Exception as error:
                for question in questions.values():
                    if not question.answer.done():
                        question.answer.set_exception(error)
                        question.answer.exception()  # whoever asked may have gone

    async def _read(self, questions: dict[str, Question]) -> None:
        known = [question.since for question in questions.values() if question.since is not None]
        since = min(known) if len(known) == len(questions) else None
        left = set(questions)
        async with aclosing(events(self._js, subjects.TERMINAL, since, headers_only=True)) as found:
            async for msg in found:
                msg_id = (msg.header or {}).get("Nats-Msg-Id", "")
                task_id = msg_id.removesuffix(SUFFIX)
                if task_id in left and msg_id.endswith(SUFFIX):
                    left.remove(task_id)
                    questions[task_id].answer.set_result(True)
                if not left:
                    return
        for task_id in left:
            questions[task_id].answer.set_result(False)

    async def _decided_at(self, task_id: str) -> datetime | None:
        """When the end was decided, by NATS' clock: whoever decided it may have one that is off."""
        try:
            value = await self._js.get_last_msg(subjects.STATES, f"$KV.{subjects.BUCKET}.{task_id}")
        except NotFoundError:
            return None
        return None if value.time is None else value.time - SCAN_MARGIN
