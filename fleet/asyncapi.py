"""Writes the AsyncAPI 3 document of the fleet: `python -m fleet.asyncapi`.

It is made from the message types and from the examples on `subjects.md`. A body that does not fit one NATS message has
a form of its own, `…ByReference`, beside the whole one.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fleet import __version__, messages, subjects
from fleet.messages import ContentRef, end_summary
from fleet.messages.channels import CHANNELS, RESULT, TERMINAL_KEPT, Channel
from fleet.messages.json_schemas import Schema, reference, schemas
from fleet.requests.by_reference import RequestRef
from fleet.requests.fields import Constraints, DeliberationRequested, Options, RequestCriterion, RequestPolicy

PAGE = Path(__file__).parents[1] / "subjects.md"

OPTIONAL = {
    kind.__name__
    for kind in (
        *(DeliberationRequested, Constraints, Options, RequestCriterion, RequestPolicy, RequestRef),
        *(messages.ResultRequest, messages.CancelRequest, messages.PromptRequest),
    )
}
"""Requests of clients may leave fields out."""


REQUEST_BY_REFERENCE = "DeliberationRequestedByReference"
KINDS: tuple[type[msgspec.Struct], ...] = (
    *(DeliberationRequested, messages.DeliberationAccepted, messages.DeliberationRejected),
    *(messages.DeliberationCompleted, messages.AllFailed, messages.TimedOut, messages.DeliberationCancelled),
    *(messages.AgentRequested, messages.AgentCompleted, messages.AgentFailed, messages.AgentProgress),
    *(messages.AgentStop, messages.DeadlineReached, messages.LookRequest, messages.ResultRequest, messages.ResultReply),
    *(messages.CancelRequest, messages.CancelReply, messages.FollowReply, messages.EndSummary),
    *(messages.ServiceError, ContentRef, RequestRef),
    *(messages.PromptRequest, messages.PromptStatus, messages.PromptAnswer, messages.PromptFacts, messages.PromptError),
    messages.Heartbeat,
)

_SEEN_HEADERS = {
    "Nats-Msg-Id": "Deterministic: JetStream drops a repetition.",
    "traceparent": "W3C Trace Context; a request's is continued.",
    "Task-Id": "The task that the message belongs to.",
    "content-type": "`application/json`.",
    "ce-specversion": "CloudEvents, binary mode: `1.0`.",
    "ce-id": "The message id.",
    "ce-source": "`/fleet/<component>`.",
    "ce-type": "The subject.",
    "ce-subject": "The task id.",
    "ce-datacontenttype": "`application/json`.",
    "ce-time": "When it was published.",
}
_SOMETIMES_SEEN_HEADERS = {
    "Call-Token": "Calls and their answers alone: who answers has been given the call.",
    end_summary.HEADER: "Terminal events alone: an `EndSummary` as JSON, in one line of ASCII.",
}
_ERROR_HEADERS = {
    "Nats-Service-Error": "What is wrong, in one line.",
    "Nats-Service-Error-Code": "400, 404, 409, 500, 503 or 504; of prompts 403 and 429, too, and none above 500.",
}


def document() -> dict[str, Any]:
    """The document as builtins."""
    named = examples(PAGE.read_text())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Deliberation fleet",
            "version": __version__,
            "description": "Councils of agents that deliberate, over NATS. Rules, defaults and meanings: subjects.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "`fleet up`"}},
        "channels": dict(_channels()),
        "operations": dict(_operations()),
        "components": {"messages": _messages(named), "schemas": _schemas()},
    }


def names_of(channel: Channel) -> tuple[str, ...]:
    """The messages of a subject: the whole form, and that by reference."""
    if channel.message == "DeliberationRequested":
        return channel.message, REQUEST_BY_REFERENCE
    return (channel.message, f"{channel.message}ByReference") if channel.kept else (channel.message,)


def _channels() -> Iterator[tuple[str, Any]]:
    for channel in CHANNELS:
        yield channel.id, _channel(channel.subject, names_of(channel))
        if channel.replies:
            yield f"{channel.id}.reply", _channel(None, channel.replies)


def _channel(address: str | None, names: tuple[str, ...]) -> dict[str, Any]:
    named = {"messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names}}
    if address is not None and "{fleet}" in address:
        named["parameters"] = {"fleet": {"default": "fleet", "description": "`FLEET_NAME`."}}
    return {"address": address, **named}


def _operations() -> Iterator[tuple[str, Any]]:
    for channel in CHANNELS:
        operation = {
            "action": channel.action,
            "summary": channel.summary,
            **_of(channel.id, names_of(channel)),
        }
        if channel.replies:
            operation["reply"] = _of(f"{channel.id}.reply", channel.replies)
        yield channel.id, operation


def _of(channel: str, names: tuple[str, ...]) -> dict[str, Any]:
    at = f"#/channels/{channel}"
    return {"channel": {"$ref": at}, "messages": [{"$ref": f"{at}/messages/{name}"} for name in names]}


def _messages(named: dict[str, list[Any]]) -> dict[str, Any]:
    built = {}
    for channel in CHANNELS:
        for name in names_of(channel):
            by_fleet = channel.action == "send" and channel.headers
            built[name] = _message(name, channel.summary, named, by_fleet=by_fleet)
        for name in channel.replies:
            built.setdefault(name, _message(name, "A reply.", named, by_fleet=False))
    for name in ("DeliberationRejected", "ServiceError", "PromptError"):
        built[name].setdefault("headers", reference("ErrorHeaders"))
    return dict(sorted(built.items()))


def _message(name: str, summary: str, named: dict[str, list[Any]], *, by_fleet: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"name": name, "title": name, "summary": summary, "payload": reference(name)}
    if by_fleet:
        message["headers"] = reference("Headers")
        message["correlationId"] = {"location": "$message.header#/Task-Id"}
    if name in named:
        message["examples"] = [{"payload": payload} for payload in named[name]]
    return message


def _schemas() -> dict[str, Schema]:
    built = schemas(KINDS, OPTIONAL)
    failed, timed_out = built.pop("AllFailed"), built.pop("TimedOut")
    status = failed["properties"]["status"] | {"title": "DeliberationFailedStatus", "enum": ["FAILED", "TIMEOUT"]}
    built["DeliberationFailed"] = {
        **failed,
        "title": "DeliberationFailed",
        "description": f"{failed['description']} Or: {timed_out['description']}",
        "properties": failed["properties"] | {"status": status},
    }
    built["ResultReply"]["properties"]["result"] = {"oneOf": [reference(name) for name in RESULT]}
    for channel in CHANNELS:
        if channel.kept:
            name = f"{channel.message}ByReference"
            built[name] = _by_reference(name, built[channel.message]["properties"], channel.kept)
    reply = built["ResultReply"]["properties"]
    built["ReplyByReference"] = _by_reference("ReplyByReference", reply, TERMINAL_KEPT)
    whole = {
        name: built["DeliberationRequested"]["properties"][name] for name in DeliberationRequested.__struct_fields__
    }
    built[REQUEST_BY_REFERENCE] = _by_reference(REQUEST_BY_REFERENCE, whole, tuple(whole))
    built[REQUEST_BY_REFERENCE]["properties"]["content_ref"] = reference("RequestRef")
    built[REQUEST_BY_REFERENCE]["required"] = ["content_ref"]
    built["Headers"] = _headers("Headers", _SEEN_HEADERS, _SOMETIMES_SEEN_HEADERS)
    built["ErrorHeaders"] = _headers("ErrorHeaders", _ERROR_HEADERS)
    return dict(sorted(built.items()))


def _by_reference(name: str, properties: Schema, kept: tuple[str, ...]) -> Schema:
    return {
        "title": name,
        "description": "The same where the body does not fit one message: it lies in the object store, whole.",
        "type": "object",
        "properties": {field: properties[field] for field in kept} | {"content_ref": reference("ContentRef")},
        "required": [*kept, "content_ref"],
    }


def _headers(name: str, always: dict[str, str], sometimes: dict[str, str] | None = None) -> Schema:
    described = {**always, **(sometimes or {})}
    properties = {header: {"type": "string", "description": text} for header, text in described.items()}
    return {"title": name, "type": "object", "properties": properties, "required": list(always)}


_HEADING = re.compile(r"`(?P<subject>[^`]+)`(?P<reply> reply)?\n(?P<text>.*)", re.DOTALL)


def page_examples(page: str) -> Iterator[tuple[str, str]]:
    """(subject, or `<subject> reply`; JSON) of each example on `subjects.md`."""
    for part in re.split(r"^### |^## ", page, flags=re.MULTILINE):
        if heading := _HEADING.match(part):
            for text in re.findall(r"```json\n(.*?)```", heading["text"], re.DOTALL):
                yield heading["subject"] + (heading["reply"] or ""), text


def name_of(title: str, body: dict[str, Any]) -> str:
    """The message that an example under this heading is."""
    subject, _, reply = title.partition(" ")
    channel = next(channel for channel in CHANNELS if channel.subject == subject)
    whole = channel.replies[0] if reply else channel.message
    if channel.subject == subjects.PROMPT and reply:
        return {"status": "PromptStatus", "response": "PromptAnswer"}.get(body.get("type", ""), "PromptError")
    if "error" in body and reply:
        return "ServiceError"
    return f"{whole}ByReference" if "content_ref" in body else whole


def examples(page: str) -> dict[str, list[Any]]:
    """The examples on `subjects.md` by the name of their message."""
    named: dict[str, list[Any]] = {}
    for title, text in page_examples(page):
        body = msgspec.json.decode(text)
        named.setdefault(name_of(title, body), []).append(body)
    return named


def text() -> str:
    """The document as it is checked in."""
    return msgspec.json.format(msgspec.json.encode(document(), order="deterministic"), indent=1).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
