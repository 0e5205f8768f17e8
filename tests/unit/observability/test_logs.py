"""What stands in a log, and what never does."""

import json
import subprocess
import sys
from typing import Any

import pytest

from fleet.observability.logs import masking
from tests.unit.observability.test_visible import COLOURS, controls_in

FAILING = """
import logging
import structlog
from fleet.observability.logs import configure_logging

configure_logging("test")
log = structlog.get_logger()

def fail(prompt):
    settings = "nats://user:" + "p4ss-word@host:4222"
    raise RuntimeError("it broke \\x1b[2J at " + settings)

try:
    fail("what a client " + "has written")
except RuntimeError:
    log.exception("test.failed", said="\\x1b]0;title\\x07\\u202e", key="key-of" + "-the-model")
    logging.getLogger("library").exception("\\x9b8m key-of%s", "-the-model")
"""


def logged(**environ: str) -> str:
    """By a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING], capture_output=True, text=True, check=True, timeout=60, env=environ
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("how", ["json", "human", "console", "CONSOLE", ""])
def test_a_log_holds_no_local_variable_no_secret_and_no_control(how: str) -> None:
    """Whoever writes it, and in every form."""
    text = logged(FLEET_LOG=how, VLLM_API_KEY="key-of-the-model", NATS_URL="nats://user:p4ss-word@host:4222")
    assert "it broke" in text
    for secret in ("key-of-the-model", "p4ss-word", "what a client has written"):
        assert secret not in text
    assert controls_in(COLOURS.sub("", text)) == []
    first = text.splitlines()[0]
    assert (how in ("json", "")) == first.startswith("{")


def test_json_logs_are_json() -> None:
    """One object per event, the traceback in it."""
    event: dict[str, Any] = json.loads(logged(FLEET_LOG="json").splitlines()[0])
    assert (event["event"], event["said"]) == ("test.failed", "\x1b]0;title\x07\u202e")
    frames = event["exception"][0]["frames"]
    assert frames
    assert not any("locals" in frame for frame in frames)


@pytest.mark.parametrize(
    ("environ", "text", "masked"),
    [
        ({}, "at nats://u:p@w@h:1 twice", "at nats://h:1 twice"),
        ({"NATS_URL": "nats://s3cr3t@h"}, "token s3cr3t", "token ***"),
        ({"NATS_URL": "u:pass/word@h,u:pass/word@i"}, "pass/word", "***"),
        ({"VLLM_URL": "http://gpu:8000/v1@2"}, "http://gpu:8000/v1@2 answers", "http://gpu:8000/v1@2 answers"),
        ({"X_API_KEY": 'a"bcd'}, '{"said": "a\\"bcd"}', '{"said": "***"}'),
        ({"VLLM_API_KEY": "abc"}, "abc is too short to be told from a word", "abc is too short to be told from a word"),
    ],
)
def test_secrets_are_masked(environ: dict[str, str], text: str, masked: str) -> None:
    """Those of the environment by value, those in URLs by where they stand."""
    assert masking(environ)(text) == masked
