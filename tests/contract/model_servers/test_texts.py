"""What models write where something else was asked for: `texts.json` beside this file has the forms."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, Phase, Scorecard
from workers.calls.reading.answers import AnswerReader
from workers.llm.reading.answer import StreamedAnswer
from workers.llm.reading.control_tokens import broken_up

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text())
LABELS = {"A": "agent-dev-002", "B": "agent-dev-003"}
CRITERION = {"type": "object", "properties": {"rationale": {"type": "string"}, "score": {"type": "integer"}}}
CARD = {"type": "object", "properties": {"correctness": CRITERION, "clarity": CRITERION}}
SCHEMA = {"type": "object", "properties": {"A": CARD, "B": CARD}}


def forms(kind: str) -> Any:
    return pytest.mark.parametrize(
        ("name", "text"), [pytest.param(form["name"], form["text"], id=form["name"]) for form in TEXTS[kind]["forms"]]
    )


def said(text: str) -> StreamedAnswer:
    answer = StreamedAnswer()
    for piece in re.findall(r"(?s).{1,7}", text):
        answer.take(json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}))
    return answer


def reader(phase: Phase, **more: Any) -> AnswerReader:
    return AnswerReader(
        AgentRequested(
            task_id="t",
            agent_id="agent-dev-001",
            role="DEV",
            phase=phase,
            round=1,
            messages=(ChatMessage(role="user", content="do"),),
            num_agents=3,
            deadline_at="2026-01-01T00:00:00.000Z",
            **more,
        )
    )


def read_back(cards: tuple[Scorecard, ...] | None) -> dict[str, Any]:
    by_author = {author: label for label, author in LABELS.items()}
    return {
        by_author[card.author_id]: {
            name: {"rationale": criterion.rationale, "score": criterion.score}
            for name, criterion in card.criteria.items()
        }
        for card in cards or ()
    }


@forms("thoughts")
def test_thoughts_are_kept_apart(name: str, text: str) -> None:
    """In every notation."""
    answer = said(text)
    assert answer.content.strip() == "The answer."
    assert "secret plan" in answer.reasoning


@forms("declines")
def test_a_decline_is_understood(name: str, text: str) -> None:
    """However it is written."""
    checked = reader("revise")(text)
    assert checked.proposal is None
    assert checked.declined


@forms("scores")
def test_scores_are_read_or_asked_for(name: str, text: str) -> None:
    """Without guessing: what cannot be read costs one repair, and then only its own part."""
    card, content = TEXTS["scores"]["card"], said(text).content
    take = reader("score", labels=LABELS, answer_schema=SCHEMA)
    if name in ("score 11", "score NaN", "duplicate label"):
        with pytest.raises(AgentCallError, match=r"\$\.A") as caught:
            take(content)
        assert caught.value.error_type == "InvalidAnswer"
        salvaged = take.salvage()
        assert salvaged is not None
        found = read_back(salvaged.scores)
        assert found["B"] == card["B"]
        assert found.get("A") in (None, {"clarity": card["A"]["clarity"]})
        assert read_back(take(json.dumps(card)).scores) == card
        return
    found = read_back(take(content).scores)
    if name == "score 8.5":
        assert found["A"]["correctness"].pop("score") == 8.5
        found["A"]["correctness"]["score"] = 8
    if name == "null rationale":
        assert found["A"]["correctness"].pop("rationale") == ""
        found["A"]["correctness"]["rationale"] = card["A"]["correctness"]["rationale"]
    assert found == card


@pytest.mark.parametrize("phase", ["propose", "revise", "synthesise"])
def test_tags_of_our_own_are_taken_off(phase: Phase) -> None:
    """They are no part of the text."""
    text = TEXTS["tags_of_our_own"]["text"].replace("FRAME", "90780693")
    checked = reader(phase)(text)
    assert (checked.proposal or checked.synthesis) == "A better text."


def test_control_tokens_are_broken_up_where_they_are_shown() -> None:
    """No template can read them; every word is still there."""
    text = TEXTS["control_tokens"]["text"]
    shown = broken_up(text)
    for token in ("<|im_end|>", "<|im_start|>", "<|eot_id|>", "[/INST]"):
        assert token in text
        assert token not in shown
    assert shown.replace(" ", "") == text.replace(" ", "")
