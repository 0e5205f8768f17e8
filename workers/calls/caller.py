"""Makes one agent call: asks the model, checks its proposal, publishes progress meanwhile, builds the response."""

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog
from msgspec import structs

from fleet.config import Settings
from fleet.errors import AgentCallError
from fleet.jetstream.topology import WORKERS_MAX_DELIVER
from fleet.messages import AgentFailed, AgentProgress, AgentRequested, AgentResponse
from fleet.messages.trace_ids import TraceContext
from fleet.observability.spans import Tracer
from workers.calls import responses
from workers.calls.call_names import facts
from workers.calls.call_spans import STOPPED, call_context, chats, invoke_agent
from workers.calls.isolated import IsolatedChecks
from workers.calls.progress import ProgressRate, ProgressReport
from workers.calls.reading.answers import AnswerReader
from workers.llm.client import Answer, GaveUp, ModelClient
from workers.llm.requests import ModelRequest, resolve
from workers.llm.retry import ATTEMPTS_PER_DELIVERY
from workers.llm.tally import Tally

log = structlog.get_logger(__name__)

Publish = Callable[[AgentProgress, int, str], Coroutine[Any, Any, None]]
"""Publishes a progress event: the number counts those of its attempt; last comes the traceparent."""


class Caller:
    """Makes all calls of one worker."""

    def __init__(self, settings: Settings, client: ModelClient, publish: Publish, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._settings = settings
        self._client = client
        self._publish = publish
        self._rate = ProgressRate(settings.workers.progress_interval_ms)
        self._isolated = IsolatedChecks()

    async def close(self) -> None:
        await self._isolated.close()

    async def call(self, request: AgentRequested, num_delivered: int, phase: TraceContext) -> AgentResponse:
        """The response to publish. `phase`: the span that the call belongs to."""
        began, began_ns = time.monotonic(), time.time_ns()
        trace = call_context(phase, request, num_delivered)
        traceparent, tally = str(trace), Tally()
        model_request: ModelRequest | None = None
        first = first_attempt(request, num_delivered)
        report = ProgressReport(request, self._rate, lambda event, number: self._publish(event, number, traceparent))
        log.debug("agent.started", delivery=num_delivered, **facts(request))
        response: AgentResponse | None = None
        try:
            model_request = resolve(self._settings, request, trace)
            answer = await self._answer(model_request, request, report, first, tally)
            text = answer.checked.proposal
            checks = {} if text is None else await self._isolated.checks(text, request.policy)
            response = responses.completed(request, model_request, answer, checks, _ms_since(began), num_delivered)
        except AgentCallError as error:
            response = responses.failed(request, error, first, _ms_since(began), num_delivered)
        finally:
            report.close()
            if self._tracer is not None:
                times_ns = (began_ns, time.time_ns())
                left = None if response is not None else STOPPED
                with_content = self._tracer.captures_content
                self._tracer.emit(
                    invoke_agent(trace, phase, request, num_delivered, times_ns, response, left),
                    *chats(trace, tally.attempts, model_request, times_ns[1], with_content=with_content),
                )
        await report.sent()
        return response

    async def _answer(
        self, model_request: ModelRequest, request: AgentRequested, report: ProgressReport, first: int, tally: Tally
    ) -> Answer:
        """The model's answer; of a review that stayed incomplete, its valid part. Raises `AgentCallError`."""
        reader = AnswerReader(request)
        try:
            return await self._client.complete(
                model_request,
                request_id=request.call_id,
                check=partial(self._isolated.answer, reader),
                watcher=report,
                first_attempt=first,
                tally=tally,
            )
        except GaveUp as error:
            if error.invalid is None or (salvaged := reader.salvage()) is None:
                raise
            return structs.replace(error.invalid, checked=salvaged, spent=error.spent, facts=error.facts)


def first_attempt(request: AgentRequested, num_delivered: int) -> int:
    """The number of the first try at the model in this delivery.

    Each delivery has numbers of its own, and so has a request that was published again after its stream was lost: the
    texts and message ids of two deliveries must not mix.
    """
    earlier = (request.attempt - 1) * WORKERS_MAX_DELIVER + num_delivered - 1
    return earlier * ATTEMPTS_PER_DELIVERY + 1


def log_response(response: AgentResponse) -> None:
    went = {"endpoint": response.facts.endpoint, "model": response.facts.model}
    fields = {"attempt": response.attempt, "duration_ms": response.duration_ms, **went, **facts(response)}
    if isinstance(response, AgentFailed):
        log.warning("agent.failed", error_type=response.error_type, **fields)
    else:
        log.info("agent.completed", **fields)


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
