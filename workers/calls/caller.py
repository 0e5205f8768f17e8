"""One agent call from request to response: the model is asked, its proposal checked, watchers are told meanwhile."""

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog
from msgspec import structs

from fleet.config import Settings
from fleet.errors import AgentCallError
from fleet.messages import AgentFailed, AgentProgress, AgentRequested, AgentResponse
from workers.calls import responses
from workers.calls.answers import AnswerReader
from workers.calls.call_names import facts
from workers.calls.isolated import Isolated
from workers.calls.progress import ProgressRate, ProgressReport
from workers.llm.client import Answer, GaveUp, ModelClient
from workers.llm.requests import ModelRequest, resolve
from workers.llm.retry import ATTEMPTS_PER_DELIVERY

log = structlog.get_logger(__name__)

Publish = Callable[[AgentProgress, int, str], Coroutine[Any, Any, None]]
"""Publishes a progress event: the number counts those of its attempt; last comes the traceparent."""


class Caller:
    """Makes all calls of one worker."""

    def __init__(self, settings: Settings, client: ModelClient, publish: Publish) -> None:
        self._settings = settings
        self._client = client
        self._publish = publish
        self._rate = ProgressRate(settings.workers.progress_interval_ms)
        self._isolated = Isolated()

    async def close(self) -> None:
        await self._isolated.close()

    async def call(self, request: AgentRequested, num_delivered: int, traceparent: str) -> AgentResponse:
        """The response to publish. Attempts are numbered on from delivery to delivery: their texts must not mix."""
        began = time.monotonic()
        first_attempt = (num_delivered - 1) * ATTEMPTS_PER_DELIVERY + 1
        report = ProgressReport(request, self._rate, lambda event, number: self._publish(event, number, traceparent))
        log.debug("agent.started", delivery=num_delivered, **facts(request))
        response: AgentResponse
        try:
            asked = resolve(self._settings, request, traceparent)
            answer = await self._answer(asked, request, report, first_attempt)
            text = answer.checked.proposal
            found = {} if text is None else await self._isolated.checks(text, request.policy)
            response = responses.completed(request, asked, answer, found, _ms_since(began))
        except AgentCallError as error:
            response = responses.failed(request, error, first_attempt, _ms_since(began))
        finally:
            report.close()
        await report.sent()
        return response

    async def _answer(
        self, asked: ModelRequest, request: AgentRequested, report: ProgressReport, first_attempt: int
    ) -> Answer:
        """Of a review that stayed incomplete, what there is. Raises `AgentCallError`."""
        reader = AnswerReader(request)
        try:
            return await self._client.complete(
                asked,
                request_id=request.call_id,
                check=partial(self._isolated.answer, reader),
                watcher=report,
                first_attempt=first_attempt,
            )
        except GaveUp as error:
            if error.invalid is None or (salvaged := reader.salvage()) is None:
                raise
            return structs.replace(error.invalid, checked=salvaged, usage=error.usage)


def note(response: AgentResponse) -> None:
    """In the log."""
    told = {"attempt": response.attempt, "duration_ms": response.duration_ms, **facts(response)}
    if isinstance(response, AgentFailed):
        log.warning("agent.failed", error_type=response.error_type, **told)
    else:
        log.info("agent.completed", **told)


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
