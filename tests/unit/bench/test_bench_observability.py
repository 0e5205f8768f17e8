"""`fleet bench observability`: it measures nothing whose spans did not all arrive."""

from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from fleet.bench.speed.observability import check
from fleet.bench.speed.otlp_receiver import Received
from fleet.errors import FleetError


def received(*spans: Any) -> Received:
    found = Received()
    found.spans = {span.span_id: span for span in spans}
    return found


def root(task_id: str) -> Span:
    attribute = KeyValue(key="fleet.task_id", value=AnyValue(string_value=task_id))
    return Span(name="invoke_workflow deliberation", trace_id=b"t", span_id=task_id.encode(), attributes=[attribute])


def test_every_deliberation_needs_its_trace() -> None:
    """Else tracing would be cheap because it does not work."""
    check(received(root("a"), root("b")), ["a", "b"])
    with pytest.raises(FleetError, match="no trace of 1 of 2 deliberations: b"):
        check(received(root("a")), ["a", "b"])


def test_every_span_needs_its_parent() -> None:
    """As whoever looks at the trace would."""
    lost = Span(name="chat x", trace_id=b"t", span_id=b"c", parent_span_id=b"nobody")
    with pytest.raises(FleetError, match="1 spans without their parent: chat x"):
        check(received(root("a"), lost), ["a"])
