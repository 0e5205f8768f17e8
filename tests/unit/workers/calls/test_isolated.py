"""Answers and proposals are judged where it can be ended; what could not be judged is never called good."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, Policy
from tests.support.variants import some_of
from workers import checks
from workers.calls.isolated import IsolatedChecks
from workers.calls.reading.answers import AnswerReader


@pytest.fixture
async def isolated(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IsolatedChecks]:
    """What takes for ever is ended after a second, not after two."""
    monkeypatch.setattr("workers.calls.isolated.VALIDATE_WITHIN_S", 1)
    made = IsolatedChecks()
    yield made
    await made.close()


def call(schema: dict[str, Any], **more: Any) -> AgentRequested:
    given: dict[str, Any] = {"phase": "propose", "round": 0, "answer_schema": schema, **more}
    return AgentRequested(
        task_id="t",
        agent_id="agent-dev-001",
        role="DEV",
        messages=(ChatMessage(role="user", content="do"),),
        num_agents=3,
        deadline_at="2026-01-01T00:00:00.000Z",
        **given,
    )


def doubling(links: int) -> dict[str, Any]:
    chain = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(links)}
    return {"not": {"$ref": "#/$defs/a0"}, "$defs": {**chain, f"a{links}": {"type": "integer"}}}


async def others_while(isolated: IsolatedChecks, request: AgentRequested, content: str) -> tuple[AgentCallError, int]:
    """The error, and how many turns the event loop took meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    try:
        with pytest.raises(AgentCallError) as caught:
            await isolated.answer(AnswerReader(request), content)
    finally:
        counting.cancel()
    return caught.value, turns


@some_of(
    1,
    ("schema", "content"),
    [
        (doubling(40), '"x"'),
        pytest.param(
            {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"properties": {"x": {"$ref": "#/$defs/a"}}}] * 2}}}
            | {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"oneOf": [{"items": {"$ref": "#/$defs/a"}}] * 2}}},
            "[" * 60 + "]" * 60,
            marks=pytest.mark.slow,
        ),
        (
            {"patternProperties": {f"^(a|b|ab)*{n}$": {"type": "string"} for n in range(3_000)}},
            json.dumps({f"{'ab' * 40}{n}": "x" for n in range(40_000)}),
        ),
        pytest.param(
            {"allOf": [{"items": {"pattern": f"a.*b.*{n}"}} for n in range(2_000)]},
            json.dumps(["ab" * 40] * 20_000),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["doubling", "recursive", "patternProperties", "allOf"],
)
async def test_an_answer_that_cannot_be_checked_in_time_is_an_error(
    isolated: IsolatedChecks, schema: dict[str, Any], content: str
) -> None:
    """Never a valid one, nor worth another try; all else goes on meanwhile."""
    error, turns = await others_while(isolated, call(schema), content)
    assert (error.error_type, error.retryable) == ("UncheckedAnswer", False)
    assert "could not be checked" in error.error
    assert turns > 10
    assert (await isolated.answer(AnswerReader(call({"$ref": "#/$defs/a", "$defs": {"a": {}}})), "1")).proposal == "1"


async def test_many_unique_items_are_checked(isolated: IsolatedChecks) -> None:
    """A long array of objects takes its time, elsewhere."""
    content = json.dumps([{"n": n} for n in range(20_000)])
    assert (await isolated.answer(AnswerReader(call({"uniqueItems": True})), content)).proposal == content


async def test_judged_elsewhere_is_judged_alike(isolated: IsolatedChecks) -> None:
    """The same answers, and the same errors."""
    schema = {"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    assert (await isolated.answer(AnswerReader(call(schema)), '{"a": 1}')).proposal == '{"a": 1}'
    for content in ('{"a": "x"}', "no", '{"a": "\ud800"}'):
        with pytest.raises(AgentCallError) as caught:
            await isolated.answer(AnswerReader(call(schema)), content)
        assert (caught.value.error_type, caught.value.retryable) == ("InvalidAnswer", True)
    with pytest.raises(AgentCallError) as caught:
        await isolated.answer(AnswerReader(call({"$ref": "#/nowhere"})), "{}")
    assert (caught.value.error_type, caught.value.retryable) == ("BadRequest", False)
    choice = call(
        {"properties": {"best": {"enum": ["A"]}}, "allOf": [{}]}, phase="choose", labels={"A": "agent-dev-002"}
    )
    chosen = (await isolated.answer(AnswerReader(choice), '{"rationale": "r", "best": "A"}')).choice
    assert (chosen and chosen.author_id) == "agent-dev-002"


@pytest.mark.slow
async def test_a_part_of_the_checks_that_runs_out_hides_no_other(
    isolated: IsolatedChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy was not kept as far as anybody knows; of blocks nothing is known; the rest is checked."""
    monkeypatch.setattr("workers.calls.isolated.CHECK_WITHIN_S", 1)
    slow = tuple("(?if)" + "[a-\U0010ffff]" * 190 + str(n) for n in range(50))
    found = await isolated.checks("```python\nx = (\n```\n\n```json\n{}\n```\n\ud800", Policy(required=slow))
    assert list(found) == list(checks.NAMES)
    assert (found["python"].status, found["json"].status, found["policy"].status) == ("failed", "passed", "failed")
    assert "could not be checked within 1 s" in found["policy"].findings[0]
    assert checks.not_finished("data", "it took too long")["yaml"].status == "not_applicable"


async def test_checks_elsewhere_find_what_they_find_here(isolated: IsolatedChecks) -> None:
    text = "```yaml\na: [\n```\n\n```toml\na = 1\n```\n\n```py\nprint(x\n```\n"
    for policy in (Policy(), Policy(required=("none",), forbidden=("yaml",))):
        assert await isolated.checks(text, policy) == await checks.check(text, policy)
    assert await isolated.checks("prose", Policy()) == dict.fromkeys(checks.NAMES, checks.NOTHING)
