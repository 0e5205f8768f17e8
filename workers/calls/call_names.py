"""Lists the fields that name a call, in its messages and in the log."""

from typing import Any

from fleet.messages import AgentProgress, AgentRequested, AgentResponse

_FIELDS = ("task_id", "agent_id", "role", "phase", "round", "question", "run", "shadow")
Call = AgentRequested | AgentResponse | AgentProgress


def slot_of(call: Call) -> dict[str, Any]:
    """The fields that name a call; every attempt at it has the same."""
    return {name: getattr(call, name) for name in _FIELDS}


def facts(call: Call) -> dict[str, Any]:
    """What a log line says of a call: never its text."""
    return {name: value for name, value in slot_of(call).items() if name not in ("role", "run", "shadow")}
