"""Exports spans by OTLP over HTTP, with OpenTelemetry's own exporter, in the background."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import structlog
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import SpanContext, TraceFlags

from fleet.messages.trace_ids import TraceContext
from fleet.observability.quirks import BytesExporter
from fleet.observability.span_encoding import SpanEncoder
from fleet.observability.spans import Span

log = structlog.get_logger(__name__)

SCHEDULE_DELAY_MS = 500
EXPORTED_WITHIN_S = 2.0
CLOSE_WITHIN_S = 2.0
NOT_WAITED_FOR_S = 30.0
"""After an export that took too long: work does not wait for a receiver that is away."""


class OtlpTracer:
    """Of one process. `component`: the name of the service, where `OTEL_SERVICE_NAME` does not say another one."""

    def __init__(self, component: str, *, captures_content: bool = False) -> None:
        self.captures_content = captures_content
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: f"fleet-{component}"}
        resource = Resource.create(named)
        self._sampler: Sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
        self._loop = asyncio.get_running_loop()
        self._emitted = 0
        self._exported = 0
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self._not_before = 0.0
        delay_ms = float(os.environ.get("OTEL_BSP_SCHEDULE_DELAY") or SCHEDULE_DELAY_MS)
        self._processor = BatchSpanProcessor(_Exporter(resource, self._count), schedule_delay_millis=delay_ms)

    def samples(self, context: TraceContext) -> bool:
        result = self._sampler.should_sample(None, int(context.trace_id, 16), "invoke_workflow deliberation")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def emit(self, *spans: Span) -> None:
        for span in spans:
            if span.context.sampled:
                self._emitted += 1
                self._processor.on_end(cast(ReadableSpan, _Queued(span)))

    async def exported(self) -> None:
        emitted = self._emitted
        if self._exported >= emitted or time.monotonic() < self._not_before:
            return
        waiting = self._loop.create_future()
        self._waiting.append((emitted, waiting))
        timeout = self._loop.call_later(EXPORTED_WITHIN_S, _end, waiting, False)
        try:
            if not await waiting:
                self._not_before = time.monotonic() + NOT_WAITED_FOR_S
                log.warning("spans.not_exported", waited_s=EXPORTED_WITHIN_S)
        finally:
            timeout.cancel()

    async def close(self) -> None:
        # In threads of their own, not waited for: a receiver that is away would hold up the end of the process.
        flushing = self._loop.run_in_executor(None, self._processor.force_flush)
        await asyncio.wait({flushing}, timeout=CLOSE_WITHIN_S)

    def _count(self, spans: int) -> None:
        """Of the exporter's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._advance, spans)

    def _advance(self, spans: int) -> None:
        self._exported += spans
        waiting, self._waiting = self._waiting, []
        for emitted, future in waiting:
            if emitted <= self._exported:
                _end(future, True)
            elif not future.done():
                self._waiting.append((emitted, future))


def _end(waiting: "asyncio.Future[bool]", exported: bool) -> None:
    if not waiting.done():
        waiting.set_result(exported)


class _Queued(NamedTuple):
    """A span as OpenTelemetry's batching takes it: it looks at the context alone."""

    span: Span
    context: SpanContext = SpanContext(1, 1, False, TraceFlags(TraceFlags.SAMPLED))


class _Exporter(SpanExporter):
    """Encodes and sends; tells how many spans were exported, or could not be."""

    def __init__(self, resource: Resource, count: Callable[[int], None]) -> None:
        self._encoder = SpanEncoder(resource.attributes)
        self._sending = BytesExporter()
        self._count = count

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        try:
            sent = self._sending.send(self._encoder.encode(queued.span for queued in spans))
            return SpanExportResult.SUCCESS if sent else SpanExportResult.FAILURE
        finally:
            self._count(len(spans))

    def shutdown(self) -> None:
        self._sending.shutdown()  # type: ignore[no-untyped-call]
