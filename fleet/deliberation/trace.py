"""The trace of a deliberation: `invoke_workflow deliberation`, and below it one `phase <name>` for each phase.

Their ids are a function of the state: of two processes that end the same deliberation both make the same spans.
"""

from fleet.deliberation.state import Deliberation
from fleet.messages import Phase
from fleet.messages.trace_ids import SAMPLED, TraceContext, context_of, digest


def root_context(state: Deliberation) -> TraceContext:
    """Of the deliberation itself: a child of the request's trace context, or the first span of a trace of its own."""
    parent = context_of(state.traceparent)
    name = (state.task_id, state.stream_sequence, state.accepted_at)
    if parent is None:
        parent = TraceContext(digest(16, "trace", *name), "", SAMPLED)
    return parent.child("deliberation", *name)


def phase_context(state: Deliberation, phase: Phase, round_: int) -> TraceContext:
    """The trace context of one phase."""
    root = root_context(state)
    return root.child(root.span_id, phase, round_)
