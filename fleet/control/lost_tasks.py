"""Finds tasks that were accepted and have not ended, and makes the state of one whose own state is lost."""

from nats.js import JetStreamContext

from fleet.deliberation.events import Requested
from fleet.deliberation.machine import decide
from fleet.deliberation.state import Deliberation
from fleet.errors import UnreadableState
from fleet.event_loop import SharedWork
from fleet.jetstream.history import find_unended
from fleet.jetstream.lifetimes import LONGEST_TASK_S
from fleet.jetstream.payloads import Texts
from fleet.messages import AllFailed, DeliberationAccepted, TerminalEvent, status_of
from fleet.requests.task import Task
from fleet.times import from_rfc3339, rfc3339


class UnendedTasks:
    """Reads the stream of events. Those who ask before a reading begins share it."""

    def __init__(self, js: JetStreamContext, texts: Texts) -> None:
        self._js = js
        self._texts = texts
        self._reading = SharedWork(self._read)

    async def find(self) -> dict[str, DeliberationAccepted]:
        """Key -> its acceptance, of every task without a terminal event. Raises what NATS does."""
        return await self._reading.result()

    async def _read(self) -> dict[str, DeliberationAccepted]:
        unended = await find_unended(self._js, self._texts, LONGEST_TASK_S)
        return {accepted.key: accepted for accepted in unended}


def state_for_lost_task(accepted: DeliberationAccepted, at_ms: int, why: UnreadableState | None = None) -> Deliberation:
    """The failed state of a task of which only its acceptance is known."""
    event = AllFailed(
        task_id=accepted.task_id,
        tenant=accepted.tenant,
        error=f"the fleet lost the state of this deliberation{f': {why}' if why else ''}",
        failed_agents=(),
        total_agents=len(accepted.agents),
        duration_ms=max(0, at_ms - from_rfc3339(accepted.accepted_at)),
        completed_at=rfc3339(at_ms),
        correlation=accepted.correlation,
    )
    return ended_state(accepted, event)


def ended_state(accepted: DeliberationAccepted, event: TerminalEvent) -> Deliberation:
    """The state of a task of which only its acceptance and its end are known."""
    task = Task(
        task_description="",
        role=accepted.role,
        num_agents=len(accepted.agents),
        rounds=accepted.rounds,
        correlation=accepted.correlation,
    )
    accepted_ms = from_rfc3339(accepted.accepted_at)
    requested = Requested(accepted.key, task, accepted.stream_sequence, accepted_ms, run=accepted.run)
    return decide(None, requested).state.change(status=status_of(event), result=event)
