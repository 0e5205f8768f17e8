"""subjects.md is the published contract: it names what the code names, and every example on it decodes."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from fleet import messages, subjects
from fleet.config import load
from fleet.jetstream import topology
from fleet.requests import form as requests

PAGE = (Path(__file__).parents[2] / "subjects.md").read_text()
SETTINGS = load({})

KINDS: dict[str, Any] = {
    subjects.REQUESTED: requests.DeliberationRequested,
    subjects.REJECTED: messages.DeliberationRejected,
    subjects.ACCEPTED: messages.DeliberationAccepted,
    subjects.COMPLETED: messages.TerminalEvent,
    subjects.FAILED: messages.TerminalEvent,
    subjects.CANCELLED: messages.TerminalEvent,
    subjects.AGENT_REQUESTED: messages.AgentRequested,
    subjects.AGENT_COMPLETED: messages.AgentResponse,
    subjects.AGENT_FAILED: messages.AgentResponse,
    subjects.AGENT_PROGRESS: messages.AgentProgress,
    subjects.AGENT_STOP: messages.AgentStop,
    subjects.RESULT: messages.ResultRequest,
    f"{subjects.RESULT} reply": messages.ResultReply,
    subjects.CANCEL: messages.CancelRequest,
    subjects.CONTROL_CANCEL: messages.CancelRequest,
    subjects.CONTROL_DEADLINE: messages.DeadlineReached,
}

HEADING = re.compile(r"`(?P<subject>[^`]+)`(?P<reply> reply)?\n(?P<text>.*)", re.DOTALL)
EXAMPLES = [
    (match["subject"] + (match["reply"] or ""), example)
    for part in re.split(r"^### |^## ", PAGE, flags=re.MULTILINE)
    if (match := HEADING.match(part))
    for example in re.findall(r"```json\n(.*?)```", match["text"], re.DOTALL)
]


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


@pytest.mark.parametrize(("subject", "example"), EXAMPLES, ids=[subject for subject, _ in EXAMPLES])
def test_example_decodes_and_names_every_field(subject: str, example: str) -> None:
    """Each example is such a message, and shows all its fields but optional ones of requests and replies."""
    kind = KINDS[subject]
    message = msgspec.json.decode(example, type=kind)
    shown = msgspec.json.decode(example)
    assert shown.keys() - msgspec.to_builtins(message).keys() <= {"status"}
    if kind not in (messages.ResultReply,):
        assert msgspec.to_builtins(message).keys() <= shown.keys()


def test_every_message_has_an_example() -> None:
    """No subject with a body of its own goes without an example."""
    assert {subject for subject, _ in EXAMPLES} == set(KINDS)


def test_every_subject_is_listed() -> None:
    """The table and `subjects.py` name the same subjects."""
    named = {
        value
        for name, value in vars(subjects).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"(deliberation|agent|control)\.[a-z.]+", value)
    } - {subjects.CONTROL_SCHEDULE}
    listed = set(first_cells(section("Subjects and streams"))) - {stream.name for stream in topology.streams(SETTINGS)}
    several = {f"{subjects.CONTROL_SCHEDULE}.<task_id>", f"{subjects.DEADLETTER}.>", subjects.instance_of("<id>")}
    assert listed == named | several


@pytest.mark.parametrize("stream", topology.streams(SETTINGS), ids=lambda stream: stream.name)
def test_every_stream_is_listed_as_declared(stream: StreamConfig) -> None:
    """Name, retention and storage agree with what is declared."""
    retention = {"workqueue": "work queue", "limits": "limits"}[str(stream.retention.value)]  # type: ignore[union-attr]
    storage = str(stream.storage.value)  # type: ignore[union-attr]
    assert f"| `{stream.name}` | {retention} | {storage} |" in PAGE


@pytest.mark.parametrize(("stream", "consumer"), list(topology.consumers(SETTINGS)), ids=lambda given: str(given)[:20])
def test_every_consumer_is_listed_as_declared(stream: str, consumer: ConsumerConfig) -> None:
    """Name, stream and kind agree with what is declared."""
    kind = "push, queue group" if consumer.deliver_subject else "pull"
    assert f"| `{consumer.durable_name}` | `{stream}` | {kind} |" in PAGE
    assert consumer.deliver_subject is None or f"`{consumer.deliver_subject}`" in PAGE


def test_bucket_and_object_store_are_named() -> None:
    """The fixed bucket and the object store."""
    assert f"bucket `{subjects.BUCKET}` **fixed**" in PAGE
    assert f"Object store `{subjects.TEXTS}`" in PAGE


def test_every_error_type_is_documented() -> None:
    """The table names each error type once, and no other."""
    rows = first_cells(PAGE.split("\n#### Error types\n")[1].split("\n### ")[0])
    assert sorted(rows) == sorted(["error_type", *get_args(messages.ErrorType)])


def test_every_request_field_is_documented() -> None:
    """The table of `deliberation.requested` has a row for each field, `constraints.*` and `options.*` included."""
    rows = set(first_cells(section("Asking").split("\n### Rounds\n")[0]))
    wanted = set()
    for kind, prefix in (
        (requests.DeliberationRequested, ""),
        (requests.Constraints, "constraints."),
        (requests.Options, "options."),
    ):
        wanted |= {prefix + field.name for field in msgspec.structs.fields(kind)}
    assert rows == wanted - {"constraints", "options"}
