"""The expected score of a judge: from what its server tells of each token, and nothing where it tells too little."""

import json
from math import log
from typing import Any

import pytest

from workers.llm.reading.answer import StreamedAnswer
from workers.llm.reading.digit_odds import DigitOdds

Likely = dict[str, float]


def token(text: str, likely: Likely) -> dict[str, Any]:
    top = [{"token": each, "logprob": log(chance)} for each, chance in likely.items()]
    return {"token": text, "logprob": log(likely.get(text, 0.01)), "top_logprobs": top}


def told(*tokens: tuple[str, Likely]) -> dict[str, Any]:
    return {"content": [token(text, likely) for text, likely in tokens]}


def sure(text: str) -> tuple[str, Likely]:
    return text, {text: 1.0}


def read(*tokens: tuple[str, Likely]) -> Any:
    """The JSON that the tokens are, with expected scores."""
    odds = DigitOdds()
    odds.take(0, told(*tokens))
    return json.loads(odds.with_expected("".join(text for text, _ in tokens), 0))


def test_the_score_is_the_mean_over_the_digits() -> None:
    """What is no digit does not count: a grammar would not have let it through."""
    value = read(sure('{"A": '), (" 8", {" 8": 0.5, "7": 0.2, " 9": 0.1, '"': 0.2}), sure("}"))
    assert value == {"A": {"score": pytest.approx((8 * 0.5 + 7 * 0.2 + 9 * 0.1) / 0.8, abs=1e-4), "drawn": 8}}


def test_ten_may_be_one_token() -> None:
    """Then a 1 is a 1."""
    value = read(sure('{"A": '), ("9", {"9": 0.5, "10": 0.4, "1": 0.1}), sure("}"))
    assert value["A"]["score"] == pytest.approx(9 * 0.5 + 10 * 0.4 + 0.1)


@pytest.mark.parametrize(("drawn", "score"), [("8", 8 * 0.6 + 10 * 0.4), ("2", 2 * 0.6 + 1 * 0.4)])
def test_a_one_that_may_begin_a_ten_is_the_nearer_one(drawn: str, score: float) -> None:
    """Where tokens are digits, and another one was drawn."""
    value = read(sure('{"A": '), (drawn, {drawn: 0.6, "1": 0.4}), sure("}"))
    assert value["A"]["score"] == pytest.approx(score)


@pytest.mark.parametrize("rest", ["0", "}"])
def test_after_a_drawn_one_the_next_token_tells(rest: str) -> None:
    """Whether it was to be 1 or 10."""
    following = (rest, {"0": 0.75, "}": 0.25})
    value = read(sure('{"A":'), ("1", {"1": 0.8, "9": 0.2}), following, *([sure("}")] if rest == "0" else []))
    assert value["A"]["drawn"] == (10 if rest == "0" else 1)
    assert value["A"]["score"] == pytest.approx(9 * 0.2 + 0.8 * (10 * 0.75 + 1 * 0.25))


def test_little_that_is_known_says_nothing() -> None:
    """The drawn score stands, where most of the probability is on no digit."""
    assert read(sure('{"A": '), ("8", {"8": 0.3, "7": 0.1, "the": 0.6}), sure("}")) == {"A": 8}


@pytest.mark.parametrize("text", ['{"A": "8 of 10"}', '{"A": 7.5}', '{"A": 12}', '{"A": -3}'])
def test_only_whole_scores_have_odds(text: str) -> None:
    """What stands in a string, and what is no score from 0 to 10, is left as it is."""
    odds = DigitOdds()
    for at, each in enumerate(text):
        odds.take(at, told((each, {each: 0.5, "3": 0.5})))
    assert odds.with_expected(text, 0) == text


@pytest.mark.parametrize("broken", [None, [], {}, {"content": [1]}, {"content": [{"token": "8"}]}, {"content": None}])
def test_odds_that_cannot_be_read_are_none(broken: Any) -> None:
    """The answer is as good as without them."""
    odds = DigitOdds()
    odds.take(0, broken)
    assert odds.with_expected("8", 0) == "8"


def chunk(text: str, logprobs: Any = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs}
    return json.dumps({"object": "chat.completion.chunk", "choices": [choice]})


def test_thoughts_before_the_answer_move_no_place() -> None:
    """Places are counted in all that was written; the answer is what follows the thoughts."""
    answer = StreamedAnswer()
    for text in ("<think>8 or 9?</think>\n", '{"A": '):
        answer.take(chunk(text, told(sure(text))))
    answer.take(chunk("8}", told(("8", {"8": 0.5, "9": 0.5}), sure("}"))))
    assert json.loads(answer.with_expected(answer.content)) == {"A": {"score": 8.5, "drawn": 8}}


def test_without_log_probabilities_nothing_changes() -> None:
    """Servers that tell none send null, or leave the field out."""
    answer = StreamedAnswer()
    answer.take(chunk('{"A": 8}'))
    assert answer.with_expected(answer.content) == '{"A": 8}'
