"""Plays deliberations in the pure core: no NATS, no clock."""

from collections.abc import Callable, Sequence
from typing import Any

from fleet.deliberation.events import CallAgent, Requested, Responded
from fleet.deliberation.machine import Decision, decide
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, AgentResponse, DeliberationCompleted, Judge
from fleet.requests.task import Task
from tests.support.agents import answer

NOW = 1_767_225_600_000

Answerer = Callable[[AgentRequested], AgentResponse]


def begin(*, judges: Sequence[Judge] = (), **task: Any) -> Decision:
    return decide(None, Requested("t-1", Task(task_description="Build it", **task), 7, NOW, judges=tuple(judges)))


def calls(decision: Decision) -> list[AgentRequested]:
    return [effect.request for effect in decision.outbox if isinstance(effect, CallAgent)]


def respond(state: Deliberation, response: AgentResponse, at_ms: int = NOW + 1000) -> Decision:
    return decide(state, Responded(response, at_ms))


def run_to_end(
    decision: Decision, answerer: Answerer = answer, *, ms_per_call: int = 0
) -> tuple[Deliberation, list[AgentRequested]]:
    """Plays every call in agent order until the end; returns the final state and all calls."""
    asked: list[AgentRequested] = []
    waiting = calls(decision)
    while not decision.state.ended:
        assert waiting, "a running deliberation that asks for nothing is wedged"
        asked += waiting
        pending, waiting = waiting, []
        for call in pending:
            at_ms = NOW + 1000 + ms_per_call * len(asked)
            decision = respond(decision.state, answerer(call), at_ms)
            waiting += calls(decision)
    return decision.state, asked


def completed(answerer: Answerer = answer, **task: Any) -> tuple[DeliberationCompleted, list[AgentRequested]]:
    """Plays a whole deliberation that must complete."""
    state, asked = run_to_end(begin(**task), answerer)
    assert isinstance(state.result, DeliberationCompleted)
    return state.result, asked


def phases(asked: list[AgentRequested]) -> list[str]:
    """The phases in their order, each once per round: `propose`, `critique 1` …"""
    named = [f"{call.phase} {call.round}" if call.phase in ("critique", "revise") else call.phase for call in asked]
    return list(dict.fromkeys(named))
