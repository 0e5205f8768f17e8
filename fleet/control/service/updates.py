"""Derives from two states what a follower is sent: each phase that began, and each call that ended, in between."""

from collections.abc import Iterator

from fleet.deliberation.asking import calls
from fleet.deliberation.state import Deliberation
from fleet.messages import FollowReply, Message, Phase, Progress


class FollowPosition(Message, frozen=True, kw_only=True):
    """How far a follower was told: the phase, how many calls it has, and which of them had not ended."""

    phase: Phase
    round: int
    expected: int
    open: tuple[str, ...]

    @property
    def progress(self) -> Progress:
        """As a reply says it."""
        done = self.expected - len(self.open)
        return Progress(phase=self.phase, round=self.round, done=done, expected=self.expected)


def seen_of(state: Deliberation) -> FollowPosition:
    """Everything that the state shows."""
    still_open = tuple(slot for slot, status in state.calls.items() if status == "open")
    return FollowPosition(phase=state.phase, round=state.round, expected=len(state.calls), open=still_open)


def updates(seen: FollowPosition | None, state: Deliberation) -> Iterator[FollowReply]:
    """In order. A state may be several phases ahead of what was seen: the calls of a phase follow from the state."""
    for phase in _phases_since(seen, state):
        here = state.change(phase=phase[0], round=phase[1])
        slots = tuple(state.calls) if phase == (state.phase, state.round) else tuple(calls(here))
        told = seen is not None and (seen.phase, seen.round) == phase
        waiting = seen.open if told and seen is not None else slots
        if not told:
            yield _reply(here, 0, len(slots))
        done = len(slots) - len(waiting)
        for slot, outcome in _ended(here, waiting, phase == (state.phase, state.round)):
            done += 1
            yield _reply(here, done, len(slots)).change(agent_id=slot.partition("~")[0], outcome=outcome)


def progress_reply(task_id: str, progress: Progress) -> FollowReply:
    """A sign of life: where the deliberation stands."""
    return FollowReply(
        task_id=task_id,
        phase=progress.phase,
        round=progress.round,
        done=progress.done,
        expected=progress.expected,
    )


def _reply(here: Deliberation, done: int, expected: int) -> FollowReply:
    progress = Progress(phase=here.phase, round=here.round, done=done, expected=expected)
    return progress_reply(here.name.task_id, progress)


def _phases_since(seen: FollowPosition | None, state: Deliberation) -> list[tuple[Phase, int]]:
    """The phase that was seen last, and all that began after it."""
    begun: list[tuple[Phase, int]] = [(record.phase, record.round) for record in state.phases]
    if not begun:
        begun = [(state.phase, state.round)]
    if seen is not None and (seen.phase, seen.round) in begun:
        return begun[begun.index((seen.phase, seen.round)) :]
    return begun


def _ended(here: Deliberation, waiting: tuple[str, ...], current: bool) -> Iterator[tuple[str, str]]:
    """(slot, `completed` or an error type) of each call that has ended."""
    failures = [
        (failure.agent_id, failure.error_type)
        for failure in here.failures
        if (failure.phase, failure.round) == (here.phase, here.round)
    ]
    for slot in waiting:
        status = here.calls[slot] if current else "ended"
        agent = slot.partition("~")[0]
        error_type = next((kind for name, kind in failures if name == agent), None)
        if error_type is not None and status != "completed":
            # Also where `calls` says open: so the deadline leaves those that it ends.
            failures.remove((agent, error_type))
            yield slot, error_type
        elif status != "open":
            yield slot, "completed"
