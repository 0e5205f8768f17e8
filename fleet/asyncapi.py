"""The AsyncAPI 3 document of the fleet, generated from the FastStream applications: `python -m fleet.asyncapi`.

FastStream describes what is subscribed to. What is published goes through the outbox, so the publishers are declared
here, with the types that the outbox sends.
"""

import sys
from typing import Any

import msgspec
from faststream.specification import AsyncAPI

from fleet import __version__, messages, subjects
from fleet.config import Settings, load
from fleet.control.collector import Collector
from fleet.control.dispatcher import Dispatcher

PUBLISHED: dict[str, Any] = {
    subjects.ACCEPTED: messages.DeliberationAccepted,
    subjects.REJECTED: messages.DeliberationRejected,
    subjects.COMPLETED: messages.DeliberationCompleted,
    subjects.FAILED: messages.DeliberationFailed,
    subjects.CANCELLED: messages.DeliberationCancelled,
    subjects.AGENT_REQUESTED: messages.AgentRequested,
    subjects.AGENT_COMPLETED: messages.AgentCompleted,
    subjects.AGENT_FAILED: messages.AgentFailed,
    subjects.AGENT_PROGRESS: messages.AgentProgress,
    subjects.AGENT_STOP: messages.AgentStop,
}


def document(settings: Settings) -> dict[str, Any]:
    """The document as builtins."""
    dispatcher, collector = Dispatcher(settings).broker, Collector(settings).broker
    for subject, schema in PUBLISHED.items():
        (dispatcher if subject in (subjects.ACCEPTED, subjects.REJECTED) else collector).publisher(
            subject, schema=schema, title=subject, include_in_schema=True
        )
    specification = AsyncAPI(
        dispatcher,
        title="Deliberation fleet",
        version=__version__,
        schema_version="3.0.0",
        description="Councils of agents that deliberate. Rules, defaults and examples: subjects.md.",
    )
    specification.add_broker(collector)
    built: dict[str, Any] = msgspec.json.decode(specification.to_specification().to_json())
    return built


def text() -> str:
    """The document as it is checked in."""
    return msgspec.json.format(msgspec.json.encode(document(load({})), order="deterministic"), indent=1).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
