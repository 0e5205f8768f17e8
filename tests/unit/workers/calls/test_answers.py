"""What counts as an answer of each phase."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, Choice, CriterionScore, Phase
from workers.calls.answers import Checked, check
from workers.calls.structured import _validator, parse

SCHEMA = {
    "type": "object",
    "properties": {"A": {"type": "string", "maxLength": 3}, "n": {"type": "integer", "maximum": 10}},
    "required": ["A"],
    "additionalProperties": False,
}
LABELS = {"A": "agent-dev-002", "B": "agent-dev-003"}


def answer(phase: Phase, content: Any, **more: Any) -> Checked:
    """The checked answer to a call; what is no text is sent as JSON."""
    request = AgentRequested(
        task_id="t",
        agent_id="agent-dev-001",
        role="DEV",
        phase=phase,
        round=1,
        messages=(ChatMessage(role="user", content="do"),),
        num_agents=3,
        deadline_at="2026-01-01T00:00:00.000Z",
        labels=LABELS,
        **more,
    )
    return check(request, content if isinstance(content, str) else json.dumps(content))


def refused(phase: Phase, content: Any, **more: Any) -> str:
    """The error of an answer that is invalid, and worth another try."""
    with pytest.raises(AgentCallError) as caught:
        answer(phase, content, **more)
    assert (caught.value.error_type, caught.value.retryable) == ("InvalidAnswer", True)
    return caught.value.error


@pytest.mark.parametrize("text", ['{"A": "x"}', '```json\n{"A": "x"}\n```', '{"A": "x\ny"}', '{"A": "four"}'])
def test_usable_json_is_taken(text: str) -> None:
    """Fences, raw line breaks in strings, and strings a little too long are no reason for another call."""
    assert "A" in parse(text, SCHEMA)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("no", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"n": NaN}', "NaN"),
        ('{"A": "\\ud800"}', "not JSON"),
        ("{}", "$"),
        ('{"A": 1}', "$.A"),
        ('{"A": "x", "n": 11}', "$.n"),
        ("[]", "$"),
    ],
)
def test_other_json_says_what_to_mend(text: str, where: str) -> None:
    """The error names the place; it is worth another try."""
    assert where in refused("critique", text, answer_schema=SCHEMA)


def test_equal_schemas_are_compiled_once() -> None:
    """Whatever the order of their keys."""
    before = _validator.cache_info().misses
    parse("1", {"title": "counted", "type": "integer"})
    parse("2", {"type": "integer", "title": "counted"})
    assert _validator.cache_info().misses == before + 1


@pytest.mark.parametrize(
    "schema", [{"$ref": "http://127.0.0.1:9/schema.json"}, {"$schema": "http://127.0.0.1:9/meta"}, {"type": "cheese"}]
)
def test_a_schema_that_does_not_compile_is_not_retryable(schema: dict[str, Any]) -> None:
    """No other answer would satisfy it."""
    with pytest.raises(AgentCallError) as caught:
        parse("{}", schema)
    assert (caught.value.error_type, caught.value.retryable) == ("BadRequest", False)


def test_a_schema_is_not_fetched_from_elsewhere(tmp_path: Path) -> None:
    """From a file that is there neither."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer"}')
    assert jsonschema_rs.is_valid({"$ref": file.as_uri()}, 1)
    with pytest.raises(AgentCallError, match="not followed"):
        parse("1", {"$ref": file.as_uri()})


def test_a_critique_is_mapped_from_labels_to_authors_with_its_scores() -> None:
    """A fence, and a label that the prompt did not use, do no harm."""
    review = {"strengths": ["a"], "weaknesses": ["b"], "changes": ["c"], "scores": {"cost": 7, "clarity": 0}}
    (critique,) = answer("critique", f"```json\n{json.dumps({'B': review, 'Z': {}})}\n```").critiques or ()
    assert (critique.author_id, critique.strengths, critique.weaknesses) == ("agent-dev-003", ("a",), ("b",))
    assert (critique.changes, critique.scores) == (("c",), {"cost": 7.0, "clarity": 0.0})


def test_a_scorecard_has_criteria_and_requirements_by_number() -> None:
    """The member with booleans is the requirements', whatever its name; R10 comes after R9."""
    met = {f"R{number}": number != 2 for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)}
    card = {"cost": {"rationale": "r", "score": 7}, "requirements": {"score": 2}, "any name": met}
    (found,) = answer("score", {"A": card}).scores or ()
    assert found.author_id == "agent-dev-002"
    assert found.criteria == {
        "cost": CriterionScore(score=7.0, rationale="r"),
        "requirements": CriterionScore(score=2.0),
    }
    assert found.requirements_met == (True, False, *[True] * 8)


def test_a_scorecard_without_requirements_has_none() -> None:
    """Where the task has none."""
    (found,) = answer("score", {"A": {"cost": {"score": 7}}}).scores or ()
    assert found.requirements_met == ()


@pytest.mark.parametrize("phase", ["critique", "score"])
@pytest.mark.parametrize("content", [[], {"A": 1}, {"A": {"scores": 1, "cost": 1}}, {"A": {"scores": {"cost": "x"}}}])
def test_reviews_of_another_shape_are_invalid(phase: Phase, content: Any) -> None:
    """Without a schema, too."""
    refused(phase, content)


@pytest.mark.parametrize("phase", ["vote", "compare", "choose"])
def test_a_choice_names_the_author(phase: Phase) -> None:
    """By the label that was chosen."""
    assert answer(phase, {"rationale": "simple", "best": "B"}) == Checked(
        choice=Choice(author_id="agent-dev-003", rationale="simple")
    )


@pytest.mark.parametrize("content", [{}, [], {"best": "C"}, {"best": ["A"]}, {"best": "A", "rationale": 1}, "A"])
def test_a_choice_of_nothing_that_was_shown_is_invalid(content: Any) -> None:
    """The error is worth another try."""
    refused("vote", content)


@pytest.mark.parametrize(
    "text",
    [
        "DECLINE: it is `good`",
        "\n\n  DECLINE:\nit is `good`\n",
        "**DECLINE:** it is `good`",
        "**DECLINE**: it is `good`",
        "**DECLINE: it is `good`**",
        "> DECLINE: it is `good`",
        '"DECLINE: it is `good`"',
    ],
)
def test_a_declined_revision_is_its_reason(text: str) -> None:
    """Blank space, emphasis and quotes around it do not matter."""
    assert answer("revise", text) == Checked(declined="it is `good`")


@pytest.mark.parametrize("text", ["DECLINE:", "**DECLINE:**\n", "**DECLINE: **"])
def test_a_decline_without_a_reason_is_invalid(text: str) -> None:
    """It is neither a revision nor a decline."""
    assert "reason" in refused("revise", text)


def test_any_other_text_is_the_answer_as_it_stands() -> None:
    """Only a revision can be declined, and only at its beginning."""
    assert answer("propose", "DECLINE: no") == Checked(proposal="DECLINE: no")
    assert answer("revise", " We DECLINE: no") == Checked(proposal=" We DECLINE: no")
    assert answer("synthesise", "DECLINE: no") == Checked(synthesis="DECLINE: no")


@pytest.mark.parametrize("phase", ["propose", "revise"])
def test_a_proposal_by_schema_is_its_json_without_the_fence(phase: Phase) -> None:
    """The text stays as the model wrote it."""
    assert answer(phase, '```json\n{"A":  "x"}\n```\n', answer_schema=SCHEMA) == Checked(proposal='{"A":  "x"}')


@pytest.mark.parametrize("content", ["DECLINE: no", '{"A": "four"}', '{"A": "\n"}', "{}", "prose"])
def test_a_proposal_by_schema_satisfies_it_to_the_letter(content: str) -> None:
    """It is the client's schema: no leniency, and no declining."""
    refused("revise", content, answer_schema=SCHEMA)
