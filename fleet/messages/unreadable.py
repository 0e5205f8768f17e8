"""Builds `agent.response.failed` from headers alone, for a message whose body cannot be read.

`Nats-Msg-Id` names the call in every message of workers and control plane; an answer's ends with the call's token.
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from fleet.messages import UNDECODABLE, AgentFailed, ContentRef, Phase
from fleet.times import rfc3339

_CALL = re.compile(
    r"(?P<task_id>([\w-]{1,32}\.)?[\w-]{1,64})\.(?P<round>\d{1,3})\.(?P<phase>\w+)\.(?P<agent_id>agent-(?P<role>\w+)-\d+)"
    r"(~(?P<question>\d{1,3}))?\.(?P<attempt>\d{1,6})(\.(?P<run>[0-9a-f]{1,20}))?(\.[0-9a-f]{32})?",
    re.ASCII,
)


def failed_call(headers: Mapping[str, str] | None, body: bytes, error: str, at_ms: int) -> AgentFailed | None:
    """`agent.response.failed` for the call that the headers name; None where they name none."""
    call = _CALL.fullmatch((headers or {}).get("Nats-Msg-Id", ""))
    if call is None or call["phase"] not in get_args(Phase):
        return None
    num_agents = readable(body).get("num_agents")
    return AgentFailed(
        task_id=call["task_id"],
        agent_id=call["agent_id"],
        role=call["role"].upper(),
        phase=call["phase"],  # type: ignore[arg-type]
        round=int(call["round"]),
        question=int(call["question"] or 1),
        attempt=int(call["attempt"]),
        run=call["run"] or "",
        error=error,
        error_type="Undeliverable",
        retryable=False,
        num_agents=num_agents if isinstance(num_agents, int) else 0,
        duration_ms=0,
        timestamp=rfc3339(at_ms),
        correlation=correlation_of(body) or {},
        correlation_ref=_correlation_ref(body),
    )


def _correlation_ref(body: bytes) -> ContentRef | None:
    try:
        return msgspec.convert(readable(body).get("correlation_ref"), ContentRef | None)
    except msgspec.ValidationError:
        return None


def readable(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; empty if it is none."""
    try:
        value = msgspec.json.decode(body)
    except UNDECODABLE:
        return {}
    return value if isinstance(value, dict) else {}


def correlation_of(body: bytes) -> dict[str, str] | None:
    """The request's `correlation`, if it can be read."""
    correlation = readable(body).get("correlation")
    strings = isinstance(correlation, dict) and all(isinstance(value, str) for value in correlation.values())
    return correlation if strings else None
