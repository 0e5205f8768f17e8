"""How many bytes are stored for each byte that a client sends, at the time when there are most of them."""

import json
from typing import Any

import pytest

from fleet import subjects
from tests.support.agents import answer
from tests.support.fleets.control_plane import Fleet, running
from tests.support.variants import some_of
from tests.support.waiting import until

MOST = 20
"""Bytes stored for each byte of a request."""
KIB = 1024
COUNCILS = {"default": {}, "largest": {"num_agents": 16, "rounds": 3, "options": {"early_stop": False}}}
FIELDS: dict[str, Any] = {
    "description": {"task_description": "d" * 65_536},
    "short description": {"task_description": "d" * 8 * KIB},
    "correlation": {"correlation": {"k": "x" * (4 * KIB - 8)}},
    "many correlations": {"correlation": {f"k{number}": "x" for number in range(300)}},
    "rubric in prose": {"constraints": {"rubric": "r" * (16 * KIB - 2)}},
    "long criteria": {"constraints": {"rubric": {f"{number:02}" + "c" * 780: 1 for number in range(20)}}},
    "architect's rubric": {
        "constraints": {"architect_rubric": {f"{number:02}" + "c" * 780: 1 for number in range(20)}}
    },
    "policy": {"constraints": {"policy": {"forbidden": [f"{number:02}" + "p" * 990 for number in range(50)]}}},
    "long requirements": {"constraints": {"requirements": ["r" * 50_000] * 5}},
    "deep metadata": {
        "constraints": {"metadata": {"m": json.loads("[" * 58 + "9999999999," * 4_900 + "9" + "]" * 58)}}
    },
    "schema": {"options": {"output_schema": {"type": "object", "description": "s" * 250_000}}},
    "unknown fields": {f"unknown{number}": 1 for number in range(5_000)},
}


@pytest.mark.parametrize(
    "field", [pytest.param(name, marks=() if name == "correlation" else pytest.mark.slow) for name in FIELDS]
)
async def test_a_clients_bytes_are_stored_at_most_twenty_times(nats_server: str, field: str) -> None:
    """In all streams, buckets and objects together, over what the fleet stores of the same council without them."""
    async with running(nats_server, answer) as fleet:
        small = _merged({"task_description": "d"}, COUNCILS["largest"])
        if field == "long criteria":  # as many as are compared
            small = _merged(small, {"constraints": {"rubric": {f"{number:02}": 1 for number in range(20)}}})
        large = _merged(small, FIELDS[field])
        least = await _most_stored(fleet, small)
        most = await _most_stored(fleet, large)
    sent = len(json.dumps(large)) - len(json.dumps(small))
    assert (most - least) / sent <= MOST


@some_of(1, "council", COUNCILS)
async def test_the_largest_request_is_stored_at_most_twenty_times(nats_server: str, council: str) -> None:
    """With all of it at once."""
    request: dict[str, Any] = _merged({"task_description": "d"}, COUNCILS[council])
    for field in ("description", "correlation", "long criteria", "policy", "long requirements", "schema"):
        request = _merged(request, FIELDS[field])
    async with running(nats_server, answer) as fleet:
        assert await _most_stored(fleet, request) / len(json.dumps(request)) <= MOST


async def _most_stored(fleet: Fleet, request: dict[str, Any]) -> int:
    """The most bytes that NATS held at a time while the deliberation ran, less what it held before."""
    js = fleet.nc.jetstream()
    before = most = await _stored(js)
    task_id = await fleet.request(**request)

    async def completed() -> bool:
        nonlocal most
        most = max(most, await _stored(js))
        return subjects.COMPLETED in fleet.inbox.of(task_id)

    await until(completed, 300, pause_s=0.05)
    return max(most, await _stored(js)) - before


async def _stored(js: Any) -> int:
    account = await js.account_info()
    return int(account.storage + account.memory)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    for name in one.keys() & other.keys():
        if isinstance(one[name], dict) and name != "rubric":
            both[name] = _merged(one[name], other[name])
    return both
