"""The AsyncAPI document is what the code generates, and true: every recorded message is one of its messages."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from fleet import __version__, asyncapi, messages, subjects
from tests.support.repository.asyncapi import (
    DOCUMENT,
    RECORDED,
    matching,
    names_for,
    problems,
    recorded,
    recorded_messages,
)

PAGE = asyncapi.PAGE.read_text()


def test_document_is_current() -> None:
    """`make asyncapi` was run after the last change of a message."""
    assert Path(asyncapi.__file__).with_suffix(".json").read_text() == asyncapi.text(), "run `make asyncapi`"


def test_document_covers_every_subject() -> None:
    """Each subject with a body of its own is a channel, endpoints of the service included; it is AsyncAPI 3."""
    assert DOCUMENT["asyncapi"].startswith("3.")
    named = {value for name, value in vars(subjects).items() if name.isupper() and isinstance(value, str)}
    own = {name for name in named if re.fullmatch(r"(deliberation|agent|control)\.[a-z.]+", name)} - {
        subjects.CONTROL_SCHEDULE
    } | {subjects.PROMPT, subjects.HEARTBEAT}
    assert {channel["address"] for channel in DOCUMENT["channels"].values() if channel["address"]} == own


@pytest.mark.parametrize(("channel", "body"), recorded(__version__))
def test_recorded_message_is_one_of_its_channel(channel: str, body: Any) -> None:
    """Exactly one: with all its fields, no other one, and values of the types that are said."""
    names = names_for(channel)
    assert len(matching(names, body)) == 1, [problems(name, body) for name in names]


@pytest.mark.parametrize(
    "version", sorted({path.name for path in RECORDED.iterdir() if path.is_dir()} - {__version__, "__pycache__"})
)
def test_older_message_lacks_new_fields_alone(version: str) -> None:
    """What an earlier version has sent breaks no other rule of the document."""
    for channel, body in recorded(version):
        found = [problems(name, body) for name in names_for(channel)]
        assert any(all("is a required property" in problem for problem in one) for one in found), found


def test_every_message_is_recorded() -> None:
    """Failures, replies, and the forms by reference among them."""
    assert set(DOCUMENT["components"]["messages"]) == {name for name, _ in recorded_messages()}


@pytest.mark.parametrize(("title", "example"), list(asyncapi.page_examples(PAGE)))
def test_example_on_the_page_is_such_a_message(title: str, example: str) -> None:
    """With all its fields, where it is no request."""
    body = json.loads(example)
    assert not problems(asyncapi.name_of(title, body), body)


def test_endpoints_name_their_messages() -> None:
    """In the metadata that `nats micro info` shows, as in the document."""
    endpoints = {channel.subject: channel for channel in asyncapi.CHANNELS if channel.replies}
    assert {
        subject: {"request": channel.message, "reply": ", ".join(channel.replies)}
        for subject, channel in endpoints.items()
    } == subjects.ENDPOINT_MESSAGES


def test_statuses_are_those_that_are_sent() -> None:
    """No name of a class of ours among them."""
    status = DOCUMENT["components"]["schemas"]["DeliberationFailed"]["properties"]["status"]
    assert status["enum"] == ["FAILED", "TIMEOUT"]


def test_error_types_are_examples_and_no_closed_list() -> None:
    """Later versions add names."""
    error_type = DOCUMENT["components"]["schemas"]["AgentFailed"]["properties"]["error_type"]
    assert "enum" not in error_type
    assert set(error_type["examples"]) == set(get_args(messages.ErrorType))
