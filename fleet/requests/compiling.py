"""Checks that a request's regular expressions and its JSON Schema can be compiled, and in reasonable time.

A pattern of a few hundred characters may take a quarter of a second, and a request may have a hundred. They are
compiled where that can be ended: all patterns of a request have one budget, and its schema another.
"""

from typing import Any

from fleet.errors import BadRequest
from fleet.killable import Exhausted, Processes
from fleet.requests.patterns import bad_pattern
from fleet.requests.schemas import bad_schema, is_cheap
from fleet.requests.task import Task

COMPILE_WITHIN_S = 2
"""Of processor time, for all patterns together and for the schema."""

_POLICY, _SCHEMA = "$.constraints.policy", "$.options.output_schema"


def check_here(task_id: str, task: Task) -> None:
    """Raises `BadRequest`. For who sends a request: without a limit, in this process."""
    _judge(_POLICY, bad_pattern_of(task.policy.required, task.policy.forbidden), task_id, task)
    if task.output_schema is not None:
        _judge(_SCHEMA, bad_schema_of(task.output_schema), task_id, task)


def is_quick(task: Task) -> bool:
    """Whether `check_here` surely takes no time to speak of: a small schema of plain keywords, and no patterns."""
    patterns = task.policy.required or task.policy.forbidden
    return not patterns and (task.output_schema is None or is_cheap(task.output_schema, 1))


async def check(task_id: str, task: Task, processes: Processes) -> None:
    """Raises `BadRequest`."""
    if task.policy.required or task.policy.forbidden:
        await _check(_POLICY, bad_pattern_of, (task.policy.required, task.policy.forbidden), task_id, task, processes)
    if task.output_schema is not None:
        await _check(_SCHEMA, bad_schema_of, (task.output_schema,), task_id, task, processes)


def bad_pattern_of(required: tuple[str, ...], forbidden: tuple[str, ...]) -> tuple[str, str] | None:
    """The place of the first one that cannot be compiled, and why."""
    for name, patterns in (("required", required), ("forbidden", forbidden)):
        for index, pattern in enumerate(patterns):
            if problem := bad_pattern(pattern):
                return f".{name}[{index}]", f"no regular expression: {problem}"
    return None


def bad_schema_of(schema: dict[str, Any]) -> tuple[str, str] | None:
    """As `bad_pattern_of`, for the schema."""
    problem = bad_schema(schema)
    return None if problem is None else ("", f"not a self-contained JSON Schema: {problem}")


async def _check(path: str, job: Any, arguments: Any, task_id: str, task: Task, processes: Processes) -> None:
    try:
        bad = await processes.run(f"{__name__}:{job.__name__}", *arguments, cpu_s=COMPILE_WITHIN_S)
    except Exhausted as error:
        bad = "", f"cannot be compiled within {COMPILE_WITHIN_S} s: this {error}"
    _judge(path, bad, task_id, task)


def _judge(path: str, bad: tuple[str, str] | None, task_id: str, task: Task) -> None:
    if bad is not None:
        path += bad[0]
        raise BadRequest("invalid", path, f"{path}: {bad[1]}", task_id=task_id, correlation=task.correlation or None)
