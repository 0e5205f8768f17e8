"""Plays a deliberation without NATS, Ray or sleep: the real core decides, a function answers its calls."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence

from fleet.deliberation.events import CallAgent, Requested, Responded
from fleet.deliberation.machine import decide
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, AgentResponse, Judge
from fleet.requests.task import Task

Rubric = dict[str, float]
Course = Generator[list[AgentRequested], Sequence[AgentResponse], Deliberation]


async def play(
    task: Task,
    answerer: Callable[[AgentRequested], Awaitable[AgentResponse]],
    *,
    task_id: str,
    clock: Callable[[], int],
    rubric: Rubric | None = None,
    judges: tuple[Judge, ...] = (),
) -> Deliberation:
    """The final state. All calls of a phase are made at once. `clock`: ms since 1970; `rubric`: the role's."""
    course = _course(task, task_id, clock, rubric, judges)
    try:
        calls = next(course)
        while True:
            calls = course.send(await asyncio.gather(*(answerer(call) for call in calls)))
    except StopIteration as end:
        return _state(end)


def play_at_once(
    task: Task,
    answerer: Callable[[AgentRequested], AgentResponse],
    *,
    task_id: str,
    judges: tuple[Judge, ...] = (),
) -> Deliberation:
    """The same where answers are there at once: time stands still, and calls are answered in their order."""
    course = _course(task, task_id, lambda: 0, None, judges)
    try:
        calls = next(course)
        while True:
            calls = course.send([answerer(call) for call in calls])
    except StopIteration as end:
        return _state(end)


def _course(
    task: Task, task_id: str, clock: Callable[[], int], rubric: Rubric | None, judges: tuple[Judge, ...]
) -> Course:
    """Yields the calls of each phase and is sent their answers."""
    decision = decide(None, Requested(task_id, task, sequence=1, at_ms=clock(), rubric=rubric, judges=judges))
    while not decision.state.ended:
        calls = [effect.request for effect in decision.outbox if isinstance(effect, CallAgent)]
        if not calls:
            raise RuntimeError(f"{task_id}: the phase {decision.state.phase} asks nothing, and does not end")
        for response in (yield calls):
            decision = decide(decision.state, Responded(response, clock()))
    return decision.state


def _state(end: StopIteration) -> Deliberation:
    state = end.value
    assert isinstance(state, Deliberation)
    return state
