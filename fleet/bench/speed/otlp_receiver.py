"""A receiver of OTLP over HTTP with protobuf: keeps the spans that it is sent."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Received:
    """Spans by id: the same one that comes twice is one."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: dict[bytes, Any] = {}
        self.services: dict[bytes, str] = {}

    def of(self, task_id: str) -> list[Any]:
        """All spans of the trace that the task's root is in."""
        roots = [span for span in self.named("invoke_workflow ") if attributes(span)["fleet.task_id"] == task_id]
        traces = {span.trace_id for span in roots}
        return [span for span in self.spans.values() if span.trace_id in traces]

    def named(self, prefix: str) -> list[Any]:
        """All spans whose name begins so."""
        return [span for span in self.spans.values() if span.name.startswith(prefix)]

    @property
    def traces(self) -> dict[bytes, list[Any]]:
        """Spans by the id of their trace."""
        found: defaultdict[bytes, list[Any]] = defaultdict(list)
        for span in self.spans.values():
            found[span.trace_id].append(span)
        return dict(found)

    def orphans(self, known: frozenset[bytes] = frozenset()) -> list[str]:
        """Spans whose parent never came. `known`: parents that somebody else has."""
        ids = self.spans.keys() | known
        return [span.name for span in self.spans.values() if span.parent_span_id and span.parent_span_id not in ids]

    async def take(self, request: web.Request) -> web.Response:
        """Of `/v1/traces`."""
        assert request.content_type == "application/x-protobuf"
        body = ExportTraceServiceRequest.FromString(await request.read())
        for resource in body.resource_spans:
            service = next(
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans[span.span_id] = span
                    self.services[span.span_id] = service
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def attributes(span: Any) -> dict[str, Any]:
    """By name, as Python values."""
    return {each.key: _value(each.value) for each in span.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@asynccontextmanager
async def receiving(received: Received | None = None) -> AsyncIterator[Received]:
    """Listens on a free port of loopback."""
    received = received or Received()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", received.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    received.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield received
    finally:
        await runner.cleanup()
