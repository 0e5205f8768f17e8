"""Reads the part of a task's state that a worker needs: whether the answer of a call is still needed."""

from typing import get_args

from fleet.messages import AgentFailed, AgentRequested, Message, Phase

_PHASES: tuple[Phase, ...] = get_args(Phase)
_ENDED = frozenset({"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"})


class ShadowsView(Message, frozen=True):
    """`calls`: the status of each call of shadows, or for them, by slot."""

    calls: dict[str, str] = {}


class TaskView(Message, frozen=True):
    """`calls`: the status of each call of this phase, by slot. `run`: the request that the state is of."""

    status: str
    phase: Phase
    round: int
    run: str = ""
    calls: dict[str, str] = {}
    shadows: ShadowsView | None = None

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    def is_of(self, run: str) -> bool:
        """False: the task id was used again, and the state is that of another request."""
        return self.run == run or not (self.run and run)

    def needs(self, request: AgentRequested | AgentFailed) -> bool:
        """Whether the call's slot is open. A replica may lag: calls of a later phase are needed, too."""
        if self.ended or not self.is_of(request.run):
            return False
        if request.shadow:
            return self.shadows is None or self.shadows.calls.get(request.slot, "open") == "open"
        current, of_call = (self.round, _PHASES.index(self.phase)), (request.round, _PHASES.index(request.phase))
        if current == of_call:
            return self.calls.get(request.slot, "open") == "open"
        return current < of_call
