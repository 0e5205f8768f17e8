"""Exports spans by OTLP over HTTP, with OpenTelemetry's own exporter, in the background."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from fleet import __version__
from fleet.messages.trace_ids import TraceContext
from fleet.observability.spans import Span

log = structlog.get_logger(__name__)

SCHEDULE_DELAY_MS = 500
EXPORTED_WITHIN_S = 2.0
CLOSE_WITHIN_S = 2.0
NOT_WAITED_FOR_S = 30.0
"""After an export that took too long: work does not wait for a receiver that is away."""
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}


class OtlpTracer:
    """Of one process. `component`: the name of the service, where `OTEL_SERVICE_NAME` does not say another one."""

    def __init__(self, component: str, *, captures_content: bool = False) -> None:
        self.captures_content = captures_content
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: f"fleet-{component}"}
        self._resource = Resource.create(named)
        self._scope = InstrumentationScope("deliberation-fleet", __version__)
        self._sampler: Sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
        self._loop = asyncio.get_running_loop()
        self._emitted = 0
        self._exported = 0
        self._more = asyncio.Condition()
        self._not_before = 0.0
        delay_ms = float(os.environ.get("OTEL_BSP_SCHEDULE_DELAY") or SCHEDULE_DELAY_MS)
        self._processor = BatchSpanProcessor(_Counting(OTLPSpanExporter(), self._count), schedule_delay_millis=delay_ms)

    def samples(self, context: TraceContext) -> bool:
        result = self._sampler.should_sample(None, int(context.trace_id, 16), "invoke_workflow deliberation")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def emit(self, *spans: Span) -> None:
        for span in spans:
            if span.context.sampled:
                self._emitted += 1
                self._processor.on_end(self._readable(span))

    async def exported(self) -> None:
        emitted = self._emitted
        if self._exported >= emitted or time.monotonic() < self._not_before:
            return
        try:
            async with asyncio.timeout(EXPORTED_WITHIN_S), self._more:
                await self._more.wait_for(lambda: self._exported >= emitted)
        except TimeoutError:
            self._not_before = time.monotonic() + NOT_WAITED_FOR_S
            log.warning("spans.not_exported", waited_s=EXPORTED_WITHIN_S)

    async def close(self) -> None:
        # In threads of their own, not waited for: a receiver that is away would hold up the end of the process.
        flushing = self._loop.run_in_executor(None, self._processor.force_flush)
        await asyncio.wait({flushing}, timeout=CLOSE_WITHIN_S)

    def _count(self, spans: int) -> None:
        """Of the exporter's thread."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._advance(spans), self._loop)

    async def _advance(self, spans: int) -> None:
        async with self._more:
            self._exported += spans
            self._more.notify_all()

    def _readable(self, span: Span) -> ReadableSpan:
        context = span.context
        parent = None if span.parent is None else _span_context(context._replace(span_id=span.parent), remote=True)
        status = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET)
        attributes = {name: value for name, value in span.attributes.items() if value is not None}
        if span.error:
            attributes["error.type"] = span.error
        return ReadableSpan(
            name=span.name,
            context=_span_context(context),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=_KINDS[span.kind],
            status=status,
            start_time=span.began_ns,
            end_time=max(span.began_ns, span.ended_ns),
            instrumentation_scope=self._scope,
        )


class _Counting(SpanExporter):
    """Tells how many spans were exported, or could not be."""

    def __init__(self, inner: SpanExporter, count: Callable[[int], None]) -> None:
        self._inner = inner
        self._count = count

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            return self._inner.export(spans)
        finally:
            self._count(len(spans))

    def shutdown(self) -> None:
        self._inner.shutdown()


def _span_context(context: TraceContext, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), remote, TraceFlags(int(context.flags, 16)))
