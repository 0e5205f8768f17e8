"""subjects.md is the published contract: it names what the code names, and every example on it decodes."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from fleet import asyncapi, messages, subjects
from fleet.config import load
from fleet.jetstream import topology
from fleet.requests import fields as requests
from fleet.requests.sizes import LIMIT_OF_ALL, LIMITS
from fleet.tenants.names import subject_of
from tests.support.repository.asyncapi import SCHEMAS, type_of

PAGE = (Path(__file__).parents[2] / "subjects.md").read_text()
SETTINGS = load({})
CLIENTS = {"DeliberationRequested", "Constraints", "Options", "RequestCriterion", "RequestPolicy", "RequestRef"}
UNLISTED = {*CLIENTS, "Headers", "ErrorHeaders", *(name for name in SCHEMAS if name.endswith("ByReference"))}
"""In tables of their own."""

KINDS: dict[str, Any] = {
    "DeliberationRequested": requests.DeliberationRequested,
    "DeliberationFailed": messages.AllFailed | messages.TimedOut,
    **{
        kind.__name__: kind
        for kind in (
            *(messages.DeliberationRejected, messages.DeliberationAccepted, messages.DeliberationCompleted),
            *(messages.DeliberationCancelled, messages.AgentRequested, messages.AgentCompleted, messages.AgentFailed),
            *(messages.AgentProgress, messages.AgentStop, messages.ResultRequest, messages.ResultReply),
            *(messages.CancelRequest, messages.CancelReply, messages.DeadlineReached, messages.LookRequest),
            *(messages.FollowReply, messages.ServiceError),
            *(messages.PromptRequest, messages.PromptStatus, messages.PromptAnswer, messages.PromptError),
            messages.Heartbeat,
        )
    },
}
LEFT_OUT = (
    *("ResultReply", "FollowReply", "ServiceError", "ResultRequest", "CancelRequest", "DeliberationRequested"),
    *("PromptRequest", "PromptError"),
)
"""Their fields may be left out."""

EXAMPLES = [
    (asyncapi.name_of(title, msgspec.json.decode(example)), example) for title, example in asyncapi.page_examples(PAGE)
]
WHOLE = [(name, example) for name, example in EXAMPLES if not name.endswith("ByReference")]
FIELD_TABLES = dict(re.findall(r"^#### Fields of `(\w+)`\n\n\|.*\n\|.*\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE))


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "example"), WHOLE, ids=[name for name, _ in WHOLE])
def test_example_decodes_and_names_every_field(name: str, example: str) -> None:
    """Each example is such a message, and shows all its fields but those that may be left out."""
    shown = msgspec.json.decode(example)
    fields = msgspec.to_builtins(msgspec.json.decode(example, type=KINDS[name])).keys()
    assert shown.keys() - fields <= {"status"}
    assert name in LEFT_OUT or fields <= shown.keys()


def test_every_message_has_an_example() -> None:
    """Those that clients send and those that they get."""
    assert {name for name, _ in WHOLE} == set(KINDS)


def test_a_request_and_its_replies_are_shown_with_all_fields_once() -> None:
    """Some example of it, where each leaves some out."""
    for name in LEFT_OUT:
        shown = {field for other, example in WHOLE if other == name for field in msgspec.json.decode(example)}
        assert shown == set(KINDS[name].__struct_fields__)


@pytest.mark.parametrize("name", sorted({*SCHEMAS} - UNLISTED))
def test_every_field_is_listed_with_its_type(name: str) -> None:
    """Each field of each message, and of everything in them: its type, whether it may be null, which values it has."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", FIELD_TABLES[name], flags=re.MULTILINE)
    properties = SCHEMAS[name]["properties"]
    assert {field: kind for field, kind, _ in rows} == {field: type_of(value) for field, value in properties.items()}
    for field, kind, meaning in rows:
        assert "or null" not in kind or "null" in meaning or field == "content_ref", f"{field}: when is it null?"


def test_no_other_fields_are_listed() -> None:
    """A message that is gone leaves no table behind."""
    assert FIELD_TABLES.keys() == {*SCHEMAS} - UNLISTED


def test_by_reference_keeps_what_is_said() -> None:
    """The table of what stands beside `content_ref`."""
    rows = re.findall(r"^\| `([\w.]+)` \| (`.*`) \|$", section("By reference"), flags=re.MULTILINE)
    kept = {channel.subject: channel.kept for channel in asyncapi.CHANNELS if channel.kept}
    assert {subject: tuple(re.findall(r"`(\w+)`", fields)) for subject, fields in rows} == kept


def test_size_limits_are_those_that_are_checked() -> None:
    """Part by part, and in sum."""
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (\d+) \|$", section("Asking"), flags=re.MULTILINE))
    assert {name: int(size) for name, size in rows.items()} == LIMITS
    assert f"together | {LIMIT_OF_ALL} |" in section("Asking")


def test_every_subject_is_listed() -> None:
    """The table and `subjects.py` name the same subjects."""
    named = {
        value
        for name, value in vars(subjects).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"(deliberation|agent|control)\.[a-z.]+", value)
    } - {subjects.CONTROL_SCHEDULE}
    listed = set(first_cells(section("Subjects and streams"))) - SETTINGS.streams.keys()
    verbs = ("deliberation.requested", "deliberation.<verb>", "deliberation.<event>", subjects.AGENT_PROGRESS)
    of_tenants = {f"tenant.<T>.{verb}" for verb in verbs} | {f"{subjects.DELIBERATION_REQUESTS}_<T>"}
    of_tenants |= {"tenant.<T>.tokens.<day>", subjects.TENANT_TOKENS}
    several = {f"{subjects.CONTROL_SCHEDULE}.<key>", f"{subjects.DEADLETTER}.>", subjects.instance_of("<id>")}
    of_agents = {subjects.PROMPT, subjects.PROMPT_STATUS, subjects.HEARTBEAT, subject_of("<T>", subjects.PROMPT)}
    assert listed == named | several | of_tenants | of_agents


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


def test_bucket_and_object_stores_are_named() -> None:
    """The fixed bucket and both stores."""
    assert f"bucket `{subjects.BUCKET}` **fixed**" in PAGE
    assert f"Object store `{subjects.TEXTS}`" in PAGE
    assert f"Object store `{subjects.ANSWERS}`" in PAGE


def test_every_error_type_is_documented() -> None:
    """The table names each error type once, and no other."""
    rows = first_cells(PAGE.split("\n#### Error types\n")[1].split("\n### ")[0])
    assert sorted(rows) == sorted(["error_type", *get_args(messages.ErrorType)])


def test_every_request_field_is_documented() -> None:
    """The table of `deliberation.requested` has a row for each field, `constraints.*` and `options.*` included."""
    rows = set(first_cells(section("Asking").split("\n### Rounds\n")[0].split("\nWhat is larger than this")[0]))
    wanted = set()
    for kind, prefix in (
        (requests.DeliberationRequested, ""),
        (requests.Constraints, "constraints."),
        (requests.Options, "options."),
    ):
        wanted |= {prefix + field.name for field in msgspec.structs.fields(kind)}
    assert rows == wanted - {"constraints", "options"}
