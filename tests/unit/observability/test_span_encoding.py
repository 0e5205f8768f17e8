"""How spans are encoded, read back by OpenTelemetry's own classes."""

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from fleet.bench.speed.otlp_receiver import attributes
from fleet.messages.trace_ids import TraceContext
from fleet.observability.span_encoding import LONGEST_REMEMBERED, SpanEncoder
from fleet.observability.spans import Span

ROOT = TraceContext("1" * 32, "2" * 16)


def span(**more: Any) -> Span:
    return Span(**{"name": "phase score", "context": ROOT, "parent": None, "began_ns": 5, "ended_ns": 7} | more)


def read(*spans: Span) -> list[Any]:
    body = ExportTraceServiceRequest.FromString(SpanEncoder({"service.name": "fleet-worker"}).encode(spans))
    (resource,) = body.resource_spans
    (told,) = resource.resource.attributes
    assert (told.key, told.value.string_value) == ("service.name", "fleet-worker")
    (scope,) = resource.scope_spans
    assert scope.scope.name == "deliberation-fleet"
    return list(scope.spans)


def test_a_span_is_as_it_was() -> None:
    """Names, ids, times and kind; its error is its status, too."""
    one, other = read(span(), span(context=ROOT.child("x"), parent=ROOT.span_id, kind="client", error="Stalled"))
    assert (one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id) == ("phase score", *ROOT[:2], b"")
    assert (one.start_time_unix_nano, one.end_time_unix_nano, one.kind) == (5, 7, one.SPAN_KIND_INTERNAL)
    assert not one.HasField("status")
    assert (other.parent_span_id.hex(), other.kind) == (ROOT.span_id, other.SPAN_KIND_CLIENT)
    assert (other.status.code, other.status.message) == (Status.STATUS_CODE_ERROR, "Stalled")
    assert attributes(other) == {"error.type": "Stalled"}


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "", 0, False, 0.0, -1, ("stop",), "x" * (LONGEST_REMEMBERED + 1)])
def test_attributes_keep_their_types(value: Any) -> None:
    """Equal ones of other types were encoded before; what is None is left out."""
    equal = [span(attributes={"a": other}) for other in (1.0, True, 1, 0, False, 0.0)]
    *_, last = read(*equal, span(attributes={"a": value, "b": None, "c": "c"}))
    (read_value, c) = attributes(last).values()
    assert (type(read_value), read_value) == ((list, ["stop"]) if value == ("stop",) else (type(value), value))
    assert c == "c"


def test_a_span_does_not_end_before_it_began() -> None:
    """A clock may have been set back meanwhile."""
    (one,) = read(span(began_ns=9, ended_ns=7))
    assert (one.start_time_unix_nano, one.end_time_unix_nano) == (9, 9)
