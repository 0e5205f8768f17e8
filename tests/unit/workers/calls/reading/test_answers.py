"""What counts as an answer of each phase."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, Choice, CriterionScore, Phase
from workers.calls.reading.answers import AnswerReader, CheckedAnswer
from workers.calls.reading.structured import _validator, parse, read

SCHEMA = {
    "type": "object",
    "properties": {"A": {"type": "string", "maxLength": 3}, "n": {"type": "integer", "maximum": 10}},
    "required": ["A"],
    "additionalProperties": False,
}
LABELS = {"A": "agent-dev-002", "B": "agent-dev-003"}


def answer(phase: Phase, content: Any, **more: Any) -> CheckedAnswer:
    """The checked answer to a call; what is no text is sent as JSON."""
    fields: dict[str, Any] = {"messages": (ChatMessage(role="user", content="do"),), **more}
    request = AgentRequested(
        task_id="t",
        agent_id="agent-dev-001",
        role="DEV",
        phase=phase,
        round=1,
        num_agents=3,
        deadline_at="2026-01-01T00:00:00.000Z",
        labels=LABELS,
        **fields,
    )
    return AnswerReader(request)(content if isinstance(content, str) else json.dumps(content))


def refused(phase: Phase, content: Any, **more: Any) -> str:
    """The error of an answer that is invalid, and worth another try."""
    with pytest.raises(AgentCallError) as caught:
        answer(phase, content, **more)
    assert (caught.value.error_type, caught.value.retryable) == ("InvalidAnswer", True)
    return caught.value.error


@pytest.mark.parametrize(
    "text",
    [
        '{"A": "x"}',
        '```json\n{"A": "x"}\n```',
        'Sure:\n~~~~\n{"A": "x"}\n~~~~\nThat is all.',
        'The answer is {"A": "x"}, and {braces} in prose.',
        '{"A": "x",}',
        '{"A": "x" /* so */, // and so\n}',
        "{'A': 'x'}",
        '{\u00a0"A": "x"}',
        "{&quot;A&quot;: &quot;x&quot;}",
        "{“A”: “x”}",
        '{\\n "A": "x"\\n}',
        '"{\\"A\\": \\"x\\"}"',
        '\ufeff{"A": "x"}',
    ],
)
def test_what_is_plainly_meant_is_read(text: str) -> None:
    """Whatever stands around it, and however its form slips."""
    assert read(text) == {"A": "x"}


@pytest.mark.parametrize("text", ["no", "[" * 100_000, '{"A": "x"', '{"A": {"B": 1', "", "{A}"])
def test_what_would_have_to_be_guessed_is_not_read(text: str) -> None:
    """It is worth another try."""
    with pytest.raises(AgentCallError, match="not JSON") as caught:
        read(text)
    assert caught.value.error_type == "InvalidAnswer"


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
def test_a_schema_of_the_client_is_kept_to_the_letter(text: str, where: str) -> None:
    """The error names the place; it is worth another try."""
    assert where in refused("propose", text, answer_schema=SCHEMA)


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


@pytest.mark.parametrize("reason", [True, False])
def test_an_expected_score_stands_beside_what_was_drawn(*, reason: bool) -> None:
    """With a reason or without one; a score that has no odds is what was written."""
    both = {"score": 7.4, "drawn": 8}
    card = {"cost": {"rationale": "r", "score": both} if reason else both, "clarity": 6}
    (found,) = answer("score", {"A": card}).scores or ()
    assert found.criteria == {
        "cost": CriterionScore(score=7.4, rationale="r" if reason else "", drawn=8.0),
        "clarity": CriterionScore(score=6.0),
    }


def test_a_scorecard_without_requirements_has_none() -> None:
    """Where the task has none."""
    (found,) = answer("score", {"A": {"cost": {"score": 7}}}).scores or ()
    assert found.requirements_met == ()


@pytest.mark.parametrize("phase", ["critique", "score"])
@pytest.mark.parametrize("content", [[], {"A": 1}, {"B": "good"}, {"A": {"scores": {"cost": "x"}}}, {"Q": {"cost": 1}}])
def test_reviews_of_another_shape_are_invalid(phase: Phase, content: Any) -> None:
    """Without a schema, too."""
    refused(phase, content)


@pytest.mark.parametrize("phase", ["vote", "compare", "choose"])
def test_a_choice_names_the_author(phase: Phase) -> None:
    """By the label that was chosen."""
    assert answer(phase, {"rationale": "simple", "best": "B"}) == CheckedAnswer(
        choice=Choice(author_id="agent-dev-003", rationale="simple")
    )


@pytest.mark.parametrize("content", [{}, [], {"best": "C"}, {"best": ["A"]}, {"best": "A", "choice": "B"}, "A or B"])
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
        "DECLINE：it is `good`",
        "DECLINE : it is `good`",
        "Decline: it is `good`",
        "DECLINED: it is `good`",
        "1. DECLINE: it is `good`",
        "Answer: DECLINE: it is `good`",
        "DECLINE it is `good`",
        "DECLINE | it is `good`",
        "【DECLINE】it is `good`",
        "「DECLINE」：it is `good`",
        "[DECLINE] it is `good`",
        "it is `good`\n\nDECLINE",
        "it is `good`\n**DECLINE**.\n",
        "<decline>it is `good`</decline>",
        "- DECLINE: it is `good`",
        "**DECLINE** — it is `good`",
        "```\nDECLINE: it is `good`\n```",
        "DECLINE\n\nit is `good`",
        "I have read them all.\n\nDECLINE: it is `good`",
    ],
)
def test_a_declined_revision_is_its_reason(text: str) -> None:
    """Blank space, emphasis and quotes around it do not matter."""
    assert answer("revise", text) == CheckedAnswer(declined="it is `good`")


OWN = "Use a token bucket in Redis, one key for each client, refilled by a script. " * 20


@pytest.mark.parametrize(
    "text",
    [
        "RECHAZO: las críticas no mejoran nada.",
        "拒绝：这些批评没有帮助。",
        "I will keep my proposal unchanged: the critiques contradict the task.",
        "Ablehnung: nichts davon macht es besser.",
    ],
)
def test_a_notice_in_any_language_never_replaces_a_proposal(text: str) -> None:
    """It is far too short for a solution, and says that it is none; a short solution is one."""
    question = ChatMessage(role="user", content=f"<proposal 1a2b3c4d>\n{OWN}\n</proposal 1a2b3c4d>\n\nRewrite it.")
    assert answer("revise", text, messages=(question,)) == CheckedAnswer(declined=text)
    short = "Use a leaky bucket in the gateway, in memory, and accept that a restart forgives everybody once."
    assert answer("revise", short, messages=(question,)) == CheckedAnswer(proposal=short)
    named = f"{OWN}\nThree verbs: ACCEPT, DEFER,\nDECLINE"
    assert answer("revise", named, messages=(question,)).proposal == named
    long = f"{text}\n\n{OWN}"
    assert answer("revise", long, messages=(question,)).proposal == long


@pytest.mark.parametrize("phase", ["propose", "revise"])
def test_the_frame_of_the_prompt_is_taken_off(phase: Phase) -> None:
    """Models answer within the tags that they were shown."""
    assert answer(phase, "<proposal 9078069a>\nA text.\n</proposal 9078069a>\n") == CheckedAnswer(proposal="A text.")
    assert answer(phase, "A <proposal x> of </proposal x>") == CheckedAnswer(proposal="A <proposal x> of </proposal x>")


CARD = {"type": "object", "properties": {"cost": {"type": "object"}, "clarity": {"type": "object"}}}
CARDS = {"type": "object", "properties": {"A": CARD, "B": CARD}}


def request_of(phase: Phase, schema: dict[str, Any]) -> AgentRequested:
    return AgentRequested(
        task_id="t",
        agent_id="agent-dev-001",
        role="DEV",
        phase=phase,
        round=1,
        messages=(),
        num_agents=3,
        deadline_at="2026-01-01T00:00:00.000Z",
        labels=LABELS,
        answer_schema=schema,
    )


def test_a_review_that_lacks_something_is_asked_for_it_and_keeps_what_it_has() -> None:
    """The complaint names what is missing; the second answer fills it, and changes nothing else."""
    reader = AnswerReader(request_of("score", CARDS))
    with pytest.raises(AgentCallError) as caught:
        reader('{"A": {"cost": 8, "clarity": 11}, "B": {"cost": "7/10", "Clarity": {"score": 6, "rationale": "r"}}}')
    assert "$.A.clarity: expected a score from 0 to 10, not 11" in caught.value.error
    assert "$.B" not in caught.value.error
    found = reader('{"A": {"clarity": 9, "cost": 1}}').scores or ()
    assert [{name: score.score for name, score in card.criteria.items()} for card in found] == [
        {"cost": 8.0, "clarity": 9.0},
        {"cost": 7.0, "clarity": 6.0},
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"A": {"cost": 8, "clarity": 7}}\n{"B": {"cost": 5, "clarity": 6}}',
        '{"scores": {"Proposal A": {"Cost": "8/10", "clarity": 7.0}, "proposal_b": {"cost": "5", "CLARITY": 6}}}',
        '[{"label": "A", "cost": 8, "clarity": 7}, {"label": "B", "scores": {"cost": 5, "clarity": 6}}]',
        '{"A": [{"criterion": "cost", "score": 8}, {"name": "clarity", "rating": 7}], "B": {"cost": 5, "clarity": 6}}',
        '[{"label": "A", "criterion": "cost", "score": 8}, {"label": "A", "criterion": "clarity", "score": 7},'
        ' {"label": "B", "criterion": "cost", "score": 5}, {"label": "B", "criterion": "clarity", "score": 6}]',
        '{"A": {"cost": 8, "clarity": 7} "B": {"cost": 5, "clarity": 6}}',
    ],
)
def test_scores_are_found_however_they_are_arranged(text: str) -> None:
    """Nothing has to be guessed."""
    found = AnswerReader(request_of("score", CARDS))(text).scores or ()
    assert [{name: score.score for name, score in card.criteria.items()} for card in found] == [
        {"cost": 8.0, "clarity": 7.0},
        {"cost": 5.0, "clarity": 6.0},
    ]


@pytest.mark.parametrize("label", ["Proposal {} (agent 1)", "{} (yours)", "({})"])
def test_a_label_is_known_by_its_letter(label: str) -> None:
    """What stands beside it in brackets is an aside; the last bracket of all may be forgotten."""
    card = {"cost": {"score": 5, "rationale": ""}, "clarity": {"score": 6, "rationale": ""}}
    content = json.dumps({label.format(letter): card for letter in LABELS})
    take = AnswerReader(request_of("score", CARDS))
    scores = take(content.removesuffix("}")).scores
    assert scores is not None
    assert [card.author_id for card in scores] == list(LABELS.values())


def test_of_a_review_that_stays_incomplete_what_is_there_counts() -> None:
    """And it says what is missing; of nothing, nothing."""
    reader = AnswerReader(request_of("score", CARDS))
    assert reader.salvage() is None
    with pytest.raises(AgentCallError):
        reader('{"A": {"cost": 8}}')
    with pytest.raises(AgentCallError):
        reader("I cannot.")
    salvaged = reader.salvage()
    assert salvaged is not None
    assert [card.author_id for card in salvaged.scores or ()] == [LABELS["A"]]
    assert "A.clarity" in salvaged.notes[0]
    assert "B" in salvaged.notes[0]


@pytest.mark.parametrize(
    "text", ["A", "Proposal A", "**a**", '{"winner": "Proposal A"}', '[{"best": "A", "rationale": 1}]']
)
def test_a_choice_is_known_by_its_label(text: str) -> None:
    """Whatever stands around it."""
    assert answer("vote", text) == CheckedAnswer(choice=Choice(author_id=LABELS["A"]))


@pytest.mark.parametrize("text", ["DECLINE:", "**DECLINE:**\n", "**DECLINE: **"])
def test_a_decline_without_a_reason_is_invalid(text: str) -> None:
    """It is neither a revision nor a decline."""
    assert "reason" in refused("revise", text)


def test_any_other_text_is_the_answer_as_it_stands() -> None:
    """Only a revision can be declined, and only at its beginning."""
    assert answer("propose", "DECLINE: no") == CheckedAnswer(proposal="DECLINE: no")
    assert answer("revise", " We DECLINE: no") == CheckedAnswer(proposal=" We DECLINE: no")
    assert answer("synthesise", "DECLINE: no") == CheckedAnswer(synthesis="DECLINE: no")


@pytest.mark.parametrize("phase", ["propose", "revise"])
def test_a_proposal_by_schema_is_its_json_without_the_fence(phase: Phase) -> None:
    """The text stays as the model wrote it."""
    assert answer(phase, '```json\n{"A":  "x"}\n```\n', answer_schema=SCHEMA) == CheckedAnswer(proposal='{"A":  "x"}')


@pytest.mark.parametrize("content", ["DECLINE: no", '{"A": "four"}', '{"A": "\n"}', "{}", "prose"])
def test_a_proposal_by_schema_satisfies_it_to_the_letter(content: str) -> None:
    """It is the client's schema: no leniency, and no declining."""
    refused("revise", content, answer_schema=SCHEMA)
