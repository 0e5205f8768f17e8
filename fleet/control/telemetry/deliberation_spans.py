"""Makes the spans of a deliberation that has ended: itself, and its phases.

Whoever ends it emits them, or ends it again after a crash: the ids are the same (`deliberation.trace`).
"""

from fleet.deliberation.state import Deliberation
from fleet.deliberation.trace import phase_context, root_context
from fleet.messages import DeliberationCompleted, status_of
from fleet.messages.trace_ids import context_of
from fleet.observability.spans import Span
from fleet.times import from_rfc3339

NS_PER_MS = 1_000_000


def spans_of(state: Deliberation) -> tuple[Span, ...]:
    """All spans of a deliberation, parents first."""
    assert state.result is not None
    event, root = state.result, root_context(state)
    ended_ms, parent = from_rfc3339(event.completed_at), context_of(state.traceparent)
    status = status_of(event)
    workflow = Span(
        name="invoke_workflow deliberation",
        context=root,
        parent=parent.span_id if parent is not None else None,
        began_ns=from_rfc3339(state.accepted_at) * NS_PER_MS,
        ended_ns=ended_ms * NS_PER_MS,
        attributes={
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": "deliberation",
            "gen_ai.conversation.id": state.task_id,
            "fleet.task_id": state.task_id,
            "fleet.status": status,
            "fleet.role": state.task.role,
            "fleet.agents": len(state.agents),
            "fleet.degraded": event.degraded if isinstance(event, DeliberationCompleted) else None,
            "fleet.cached_from": event.cached_from if isinstance(event, DeliberationCompleted) else None,
            "fleet.rounds_run": state.rounds_run,
            "fleet.stop_reason": state.stop_reason,
            "fleet.calls": state.calls_ended,
            "fleet.failed_calls": len(state.failures),
            "gen_ai.usage.input_tokens": state.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": state.usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": state.usage.cached_tokens,
        },
        error=status if status in ("FAILED", "TIMEOUT") else None,
    )
    ends = [*(record.began_ms for record in state.phases[1:]), ended_ms]
    phases = (
        Span(
            name=f"phase {record.phase}",
            context=phase_context(state, record.phase, record.round),
            parent=root.span_id,
            began_ns=record.began_ms * NS_PER_MS,
            ended_ns=end_ms * NS_PER_MS,
            attributes={
                "fleet.task_id": state.task_id,
                "fleet.phase": record.phase,
                "fleet.round": record.round,
                "fleet.tokens": record.tokens,
            },
        )
        for record, end_ms in zip(state.phases, ends, strict=True)
    )
    return (workflow, *phases)
