"""What earlier versions have put on the wire and into the bucket, recorded by `tests/recorded/record.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import __version__, messages, subjects
from fleet.deliberation.events import CancelAsked, Conclude, DeadlinePassed, Requested, ResultMissing
from fleet.deliberation.machine import Decision, decide, due, recover
from fleet.deliberation.state import SCHEMA_VERSION, Deliberation
from fleet.messages import decode, encode
from fleet.times import from_rfc3339
from tests.recorded.record import NOW
from tests.support.council import run_to_end

RECORDED = Path(__file__).parents[2] / "recorded"
KINDS: dict[str, Any] = {
    subjects.ACCEPTED: messages.DeliberationAccepted,
    subjects.REJECTED: messages.DeliberationRejected,
    subjects.AGENT_REQUESTED: messages.AgentRequested,
    subjects.AGENT_COMPLETED: messages.AgentResponse,
    subjects.AGENT_FAILED: messages.AgentResponse,
    subjects.AGENT_PROGRESS: messages.AgentProgress,
    subjects.AGENT_STOP: messages.AgentStop,
    "terminal": messages.TerminalEvent,
}


def recorded(name: str) -> Iterator[Any]:
    for file in sorted(RECORDED.glob(f"*/{name}.json")):
        for index, record in enumerate(json.loads(file.read_text())):
            ((what, body),) = record.items()
            yield pytest.param(what, body, id=f"{file.parent.name}-{index}-{what}")


MESSAGES = list(recorded("messages"))
STATES = list(recorded("states"))
RUNNING = [state for state in STATES if state.values[1]["result"] is None]
ENDED = [state for state in STATES if state.values[1]["result"] is not None]


def test_versions_are_recorded() -> None:
    """Each with messages of every kind, and states of every phase it has."""
    versions = {file.parent.name for file in RECORDED.glob("*/states.json")}
    assert {"0.1.0.dev0", "0.1.0"} <= versions
    for version in versions:
        mine = {param.values[0] for param in MESSAGES if str(param.id).startswith(f"{version}-")}
        assert mine == KINDS.keys()
    assert {state.values[1]["phase"] for state in RUNNING} == set(messages.Phase.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("what", "body"), MESSAGES)
def test_a_recorded_message_is_understood(what: str, body: dict[str, Any]) -> None:
    """It decodes, and no field that it has was lost or changed."""
    message = decode(encode(body), KINDS[what])
    assert contained(body, json.loads(encode(message)))


@pytest.mark.parametrize(("what", "body"), STATES)
def test_a_recorded_state_is_understood(what: str, body: dict[str, Any]) -> None:
    """It decodes, and no field that it has was lost or changed."""
    assert contained(body, json.loads(encode(decode(encode(body), Deliberation))))


@pytest.mark.parametrize(("what", "body"), [state for state in RUNNING if str(state.id).startswith(f"{__version__}-")])
def test_a_state_with_new_fields_has_a_new_schema(what: str, body: dict[str, Any]) -> None:
    """An older version would drop them: it leaves alone what has a higher schema. An end is never written again."""
    now = json.loads(encode(decode(encode(body), Deliberation)))
    assert contained(now, body) or body["schema"] < SCHEMA_VERSION, (
        f"the state has fields that {__version__} was recorded without: raise SCHEMA_VERSION, "
        f"or, if {__version__} is not released yet, record it anew (tests/recorded/record.py)"
    )


@pytest.mark.parametrize(("what", "body"), RUNNING)
def test_a_recorded_state_is_carried_to_its_end(what: str, body: dict[str, Any]) -> None:
    """In whatever phase it is: the calls that are open are made by this version, and the deliberation completes."""
    state = decode(encode(body), Deliberation)
    if state.waits:
        state = decide(state, ResultMissing(NOW)).state
    state, _ = run_to_end(Decision(state, due(state)))
    assert state.result is not None
    assert state.result.task_id == body["task_id"]
    assert isinstance(state.result, messages.DeliberationCompleted)
    assert {entry.agent_id for entry in state.result.ranked} == set(state.candidates)


@pytest.mark.parametrize(("what", "body"), RUNNING)
def test_a_recorded_state_may_end_in_every_other_way(what: str, body: dict[str, Any]) -> None:
    """Cancelled, or at its deadline; and what it owes after a crash is known."""
    state = decode(encode(body), Deliberation)
    decided = state.shadows is not None and state.shadows.until is not None
    assert decide(state, CancelAsked("enough", NOW + 5000)).state.status == ("COMPLETED" if decided else "CANCELLED")
    late = decide(state, DeadlinePassed(from_rfc3339(state.deadline_at)))
    assert late.state.status == ("COMPLETED" if state.candidates else "TIMEOUT")
    assert any(isinstance(effect, Conclude) for effect in due(late.state))
    assert len(recover(state)) >= len(due(state)) > 0


@pytest.mark.parametrize(("what", "body"), ENDED)
def test_a_recorded_end_stays_as_it_was(what: str, body: dict[str, Any]) -> None:
    """The same request again changes nothing: it is recognised as the same."""
    state = decode(encode(body), Deliberation)
    again = Requested(state.task_id, state.task, 8, NOW + 9000)
    assert decide(state, again).state is state
    assert any(isinstance(effect, Conclude) for effect in due(state))


def contained(older: Any, newer: Any) -> bool:
    """Whether `newer` says all that `older` says."""
    if isinstance(older, dict):
        return isinstance(newer, dict) and all(
            key in newer and contained(value, newer[key]) for key, value in older.items()
        )
    if isinstance(older, list):
        return (
            isinstance(newer, list)
            and len(older) == len(newer)
            and all(contained(one, other) for one, other in zip(older, newer, strict=True))
        )
    return bool(older == newer)
