"""Versions run side by side: whatever a newer one adds to a message passes by an older one."""

from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from fleet import messages
from fleet.control.service.prompts import facts_of
from fleet.deliberation.state import Deliberation
from fleet.messages import DeliberationCompleted as Completed
from fleet.messages import Message, decoder, encode
from fleet.requests.fields import Options, RequestPolicy
from tests.recorded.record import everything

STRICT = (Options, RequestPolicy)
"""An unknown key there is an error by contract: a typo would cost GPU time."""
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
UNKNOWN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def samples() -> Iterator[Message]:
    """Every message that deliberations of all kinds make, and what clients and the control plane say."""
    for record in everything():
        yield from record.values()
    progress = messages.Progress(phase="propose", round=0, done=1, expected=3)
    yield messages.ResultRequest(task_id="t", wait_seconds=3.0)
    yield messages.ResultReply(task_id="t", status="IN_PROGRESS", progress=progress)
    yield messages.CancelRequest(task_id="t", reason="enough")
    yield messages.DeadlineReached(task_id="t")
    yield messages.LookRequest(task_id="t", ended="u")
    yield messages.FollowReply(
        task_id="t", phase="score", round=1, done=1, expected=2, agent_id="a", outcome="completed"
    )
    yield messages.CancelReply(task_id="t", status="CANCELLED")
    yield messages.ServiceError(error="no task t", task_id="t", status="UNKNOWN")
    yield messages.ContentRef(bucket="deliberation-texts", name="tasks/t/x", bytes=7)
    yield messages.PromptRequest(prompt="Design it", deliberation={"num_agents": 2})
    yield messages.PromptStatus(data="ack")
    file = messages.PromptFile(filename="deliberation.json", content="e30=")
    yield messages.PromptAnswer(data=messages.PromptText(text="x", attachments=(file,)))
    yield messages.PromptError(error="bad_request", message="bad prompt: it is empty", task_id="t")
    yield from (facts_of(end) for record in everything() for end in record.values() if isinstance(end, Completed))
    yield messages.Heartbeat(agent="council", owner="fleet", session="s", instance_id="i", ts="2026", interval_s=30)
    yield messages.EndSummary(status="CANCELLED", duration_ms=7, usage=messages.TotalUsage(), cost=0.5, error="enough")


SAMPLES = list(samples())


def grown(value: Any, unknown: Any) -> Any:
    """The message as a newer version might send it: each of its objects has a field more."""
    if isinstance(value, Struct):
        fields = {name: grown(getattr(value, name), unknown) for name in value.__struct_fields__}
        added = {} if isinstance(value, STRICT) else {"x_added_later": unknown}
        return {**msgspec.to_builtins(value), **fields, **added}
    if isinstance(value, dict):
        return {key: grown(item, unknown) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [grown(item, unknown) for item in value]
    return value


@given(st.sampled_from(SAMPLES), UNKNOWN)
def test_unknown_fields_pass(message: Message, unknown: Any) -> None:
    """At every depth of every message, whatever is in them."""
    assert decoder(type(message)).decode(encode(grown(message, unknown))) == message


def test_an_error_type_of_a_newer_version_is_read() -> None:
    """The list of error types grows: a failure with an unknown one is still a failure."""
    failed = next(sample for sample in SAMPLES if isinstance(sample, messages.AgentFailed))
    grown_up = {**msgspec.to_builtins(failed), "error_type": "AddedLater"}
    assert decoder(messages.AgentResponse).decode(encode(grown_up)) == failed.change(error_type="AddedLater")


def test_every_message_is_among_the_samples() -> None:
    """A new one must be added to them."""
    seen: set[type] = set()

    def see(value: Any) -> None:
        if isinstance(value, Struct):
            seen.add(type(value))
            for name in value.__struct_fields__:
                see(getattr(value, name))
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                see(item)

    for sample in SAMPLES:
        see(sample)
    published = {getattr(messages, name) for name in messages.__all__}
    kinds = {kind for kind in published if isinstance(kind, type) and issubclass(kind, Message)}
    abstract = {Message, messages.CallName, messages.DeliberationFailed}
    rare = {messages.Check, messages.Declined, messages.Disqualified, messages.Comparison, messages.Selection}
    assert (kinds | {Deliberation}) - abstract - rare <= seen
