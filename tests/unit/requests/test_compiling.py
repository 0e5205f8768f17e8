"""Patterns and schemas of a request are compiled within a budget, where it can be ended."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleet.errors import BadRequest
from fleet.killable import Processes
from fleet.requests.compiling import check, check_here, is_quick
from fleet.requests.parse import parse_request
from fleet.requests.task import Task

RANGES = "(?if)" + "[a-\U0010ffff]" * 190
"""Compiles in more than a tenth of a second."""


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    made = Processes()
    yield made
    await made.close()


async def accepted(processes: Processes, **body: Any) -> Task:
    data = json.dumps({"task_description": "x", "task_id": "t", "correlation": {"a": "b"}, **body}).encode()
    task_id, task = parse_request(data, 7, None)
    if is_quick(task):
        check_here(task_id, task)
    else:
        await check(task_id, task, processes)
    return task


async def refused(processes: Processes, **body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        await accepted(processes, **body)
    error = caught.value
    assert (error.code, error.task_id, error.correlation) == ("invalid", "t", {"a": "b"})
    assert error.path in error.error
    return error


@pytest.mark.slow
async def test_patterns_that_take_long_to_compile_are_refused_together(processes: Processes) -> None:
    """One of them is taken: the budget is that of the request."""
    await accepted(processes, constraints={"policy": {"required": [RANGES]}})
    many = {"required": [RANGES + str(n) for n in range(20)], "forbidden": [RANGES + str(n) for n in range(20, 40)]}
    error = await refused(processes, constraints={"policy": many})
    assert error.path == "$.constraints.policy"
    assert "within 2 s" in error.error


async def test_a_schema_whose_patterns_take_long_to_compile_is_refused(processes: Processes) -> None:
    """Whatever it expands to."""
    heavy = {f"{n}(\\w{{60}}){{20}}": {} for n in range(20_000)}
    error = await refused(processes, options={"output_schema": {"patternProperties": heavy}})
    assert error.path == "$.options.output_schema"


async def test_a_schema_that_doubles_is_refused(processes: Processes) -> None:
    """Before it is compiled."""
    chain = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    schema = {"not": {"$ref": "#/$defs/a0"}, "$defs": {**chain, "a40": {"type": "integer"}}}
    error = await refused(processes, options={"output_schema": schema})
    assert (error.path, "50,000" in error.error) == ("$.options.output_schema", True)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"constraints": {"policy": {"forbidden": ["a", "("]}}}, "$.constraints.policy.forbidden[1]"),
        ({"options": {"output_schema": {"allOf": [{"type": "objct"}]}}}, "$.options.output_schema"),
        ({"options": {"output_schema": {"type": "objct"}}}, "$.options.output_schema"),
        ({"options": {"output_schema": {"$ref": "http://127.0.0.1:9/schema"}}}, "$.options.output_schema"),
    ],
)
async def test_what_cannot_be_compiled_names_its_place(processes: Processes, body: dict[str, Any], path: str) -> None:
    assert (await refused(processes, **body)).path == path


async def test_what_is_good_is_taken(processes: Processes) -> None:
    """With references, patterns, and whatever JSON Schema knows."""
    schema = {"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"pattern": "^a+$"}}}
    task = await accepted(
        processes, constraints={"policy": {"required": ["(?i)redis"]}}, options={"output_schema": schema}
    )
    assert task.output_schema == schema
