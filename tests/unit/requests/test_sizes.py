"""Requests that would cost too much to store and send are refused, part by part and in sum."""

import json
from typing import Any

import pytest

from fleet.errors import BadRequest
from fleet.requests.parse import parse_request
from fleet.requests.sizes import LIMIT_OF_ALL, LIMITS, METADATA_VALUES


def parse(body: dict[str, Any]) -> Any:
    return parse_request(json.dumps({"task_description": "x", **body}).encode(), 7, {"DEV"})


def of_size(name: str, size: int) -> dict[str, Any]:
    """A request whose part of this name has so many bytes of JSON."""
    place, _, field = name.rpartition(".")
    makers: dict[str, Any] = {
        "correlation": lambda: {"k": "x" * (size - len('{"k":""}'))},
        "rubric": lambda: "x" * (size - 2),
        "architect_rubric": lambda: "x" * (size - 2),
        "metadata": lambda: {"k": "x" * (size - len('{"k":""}'))},
        "requirements": lambda: ["x" * (size - len('[""]'))],
        "output_schema": lambda: {"description": "x" * (size - len('{"description":""}'))},
    }
    return {place: {field: makers[field]()}} if place else {field: makers[field]()}


MEASURED = sorted(LIMITS.keys() - {"constraints.policy"})


@pytest.mark.parametrize("name", MEASURED)
def test_a_part_may_be_as_large_as_its_limit(name: str) -> None:
    """To the byte."""
    parse(of_size(name, LIMITS[name]))


@pytest.mark.parametrize("name", MEASURED)
def test_a_part_above_its_limit_is_named(name: str) -> None:
    """With its path, its size and the limit."""
    with pytest.raises(BadRequest) as caught:
        parse(of_size(name, LIMITS[name] + 1))
    assert (caught.value.code, caught.value.path) == ("invalid", f"$.{name}")
    assert caught.value.error == f"$.{name}: {LIMITS[name] + 1} bytes of JSON, at most {LIMITS[name]}"


@pytest.mark.parametrize("value", [{}, [], [[]], {"k": {}}, 0, None, ""])
def test_metadata_has_a_limit_of_values(value: Any) -> None:
    """Three bytes of JSON become a hundred in memory, in each state that is read: what counts is how many there are."""
    each = 1 + (len(value) if isinstance(value, dict | list) else 0)
    fitting = (METADATA_VALUES - 2) // each
    parse({"constraints": {"metadata": {"a": [value] * fitting}}})
    with pytest.raises(BadRequest) as caught:
        parse({"constraints": {"metadata": {"a": [value] * (fitting + 1)}}})
    assert caught.value.path == "$.constraints.metadata"


def test_bytes_count_and_not_characters() -> None:
    """What is stored is UTF-8."""
    with pytest.raises(BadRequest, match=r"correlation: 4\d\d\d bytes"):
        parse({"correlation": {"k": "ä" * 2050}})


def test_patterns_have_a_limit_together() -> None:
    """Each may have 1,000 characters, and there may be 100: not both."""
    with pytest.raises(BadRequest) as caught:
        parse({"constraints": {"policy": {"required": ["x" * 1000] * 50, "forbidden": ["y" * 1000] * 50}}})
    assert caught.value.path == "$.constraints.policy"


def test_parts_that_are_large_together_are_refused() -> None:
    """Each within its limit."""
    body = {
        "task_description": "\U0001f600" * 65_536,
        "constraints": {
            "metadata": of_size("constraints.metadata", LIMITS["constraints.metadata"])["constraints"]["metadata"],
            "requirements": ["x" * 250_000],
            "policy": {"required": ["x" * 1000] * 50},
            "rubric": "x" * 16_000,
            "architect_rubric": "x" * 16_000,
        },
        "options": {"output_schema": {"description": "x" * 250_000}},
    }
    with pytest.raises(BadRequest, match="together, at most") as caught:
        parse_request(json.dumps(body, ensure_ascii=False).encode(), 7, {"DEV"})
    assert caught.value.path == "$"
    assert sum(LIMITS.values()) + 4 * 65_536 > LIMIT_OF_ALL
