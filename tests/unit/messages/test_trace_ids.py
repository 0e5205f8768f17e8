"""Ids of spans follow from what names them."""

import pytest

from fleet.control.telemetry.deliberation_spans import spans_of
from fleet.deliberation.trace import phase_context, root_context
from fleet.messages.trace_ids import TraceContext, context_of
from tests.support.agents import answer
from tests.support.council import begin, run_to_end

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("text", [None, "", "00-a-b-01", f"x{PARENT}", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_what_is_no_trace_context_is_none(text: str | None) -> None:
    """Whatever a client sends."""
    assert context_of(text) is None


def test_a_context_is_read_as_it_is_written() -> None:
    """The flags included; what a later version appends is left out."""
    assert str(context_of(PARENT)) == PARENT
    assert str(context_of(f"01{PARENT[2:]}-more")) == PARENT
    assert context_of(PARENT[:-2] + "00") == TraceContext(*PARENT.split("-")[1:3], "00")


def test_whoever_ends_a_deliberation_makes_the_same_spans() -> None:
    """They are a function of the state; each has an id of its own, and its parent among them."""
    state, _ = run_to_end(begin(num_agents=3, rounds=2, early_stop=False), answer)
    spans = spans_of(state)
    assert spans == spans_of(state)
    ids = [span.context.span_id for span in spans]
    assert len(set(ids)) == len(ids) == 1 + len(state.phases)
    assert {span.parent for span in spans[1:]} == {spans[0].context.span_id}
    assert spans[0].parent is None
    for span, record in zip(spans[1:], state.phases, strict=True):
        assert span.context == phase_context(state, record.phase, record.round)


def test_a_requests_trace_is_continued() -> None:
    """With its flags, too: what its publisher does not sample is not."""
    state = begin(num_agents=1).state
    continued = state.change(traceparent=f"{PARENT[:-2]}00")
    root = root_context(continued)
    assert (root.trace_id, root.flags, root.sampled) == (PARENT.split("-")[1], "00", False)
    assert root_context(state).sampled
    assert root_context(state).trace_id != root.trace_id
