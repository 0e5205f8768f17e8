"""What can still be said of an agent call when its message, or its answer, could not be handled: that it failed.

Workers and control plane name every call in `Nats-Msg-Id`; the body may be unreadable.
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from fleet.messages import UNDECODABLE, AgentFailed, Phase
from fleet.times import rfc3339

_CALL = re.compile(
    r"(?P<task_id>[\w-]{1,64})\.(?P<round>\d{1,3})\.(?P<phase>\w+)\.(?P<agent_id>agent-(?P<role>\w+)-\d+)"
    r"(~(?P<question>\d{1,3}))?\.(?P<attempt>\d{1,6})",
    re.ASCII,
)


def failed_call(headers: Mapping[str, str] | None, body: bytes, error: str, at_ms: int) -> AgentFailed | None:
    """`agent.response.failed` for the call that the headers name; None where they name none."""
    named = _CALL.fullmatch((headers or {}).get("Nats-Msg-Id", ""))
    if named is None or named["phase"] not in get_args(Phase):
        return None
    num_agents = readable(body).get("num_agents")
    return AgentFailed(
        task_id=named["task_id"],
        agent_id=named["agent_id"],
        role=named["role"].upper(),
        phase=named["phase"],  # type: ignore[arg-type]
        round=int(named["round"]),
        question=int(named["question"] or 1),
        attempt=int(named["attempt"]),
        error=error,
        error_type="Undeliverable",
        retryable=False,
        num_agents=num_agents if isinstance(num_agents, int) else 0,
        duration_ms=0,
        timestamp=rfc3339(at_ms),
        correlation=correlation_of(body) or {},
    )


def readable(body: bytes) -> dict[str, Any]:
    """The body as JSON; empty where it is no object."""
    try:
        found = msgspec.json.decode(body)
    except UNDECODABLE:
        return {}
    return found if isinstance(found, dict) else {}


def correlation_of(body: bytes) -> dict[str, str] | None:
    """What the client wants back with every event, if that can be read."""
    found = readable(body).get("correlation")
    strings = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if strings else None
