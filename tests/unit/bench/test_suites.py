"""Suites from outside: what their loaders take and refuse, what their checks say, and what a record goes on with."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleet.bench.quality.real import REFERENCE_AGENTS, Models
from fleet.bench.quality.strategies import Strategy
from fleet.bench.quality.suites import ifeval, judgebench, own
from fleet.bench.quality.suites.items import Suite
from fleet.bench.quality.suites.plays import plays
from fleet.bench.quality.suites.record import Head, Line, Record
from fleet.bench.quality.suites.run import agents_of_plays, difference
from fleet.errors import ConfigError


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


PAIR = {"pair_id": "p", "question": "2 + 2?", "response_A": "5", "response_B": "4", "label": "B>A"}
PROMPT = {"key": 7, "prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.mark.parametrize(("load", "row"), [(ifeval.load, PROMPT), (judgebench.load, PAIR)])
def test_a_copy_whose_hash_is_not_known_is_refused(load: Any, row: dict[str, Any], tmp_path: Path) -> None:
    """Unless its hash is named: the result says which copy it was."""
    path = written(tmp_path / "copy.jsonl", row)
    with pytest.raises(ConfigError, match=digest(path)):
        load(path)
    assert load(path, digest(path)).sha256 == digest(path)


def test_the_better_text_of_a_pair_is_right(tmp_path: Path) -> None:
    """And a pair of equal texts is left out."""
    path = written(tmp_path / "copy.jsonl", PAIR, {**PAIR, "response_A": "4 "})
    suite = judgebench.load(path, digest(path))
    (item,) = suite.items
    assert (suite.judges, suite.left_out, item.candidates) == (True, 1, ("5", "4"))
    assert [item.solved_by(text) for text in item.candidates] == [False, True]


def test_what_cannot_be_checked_is_left_out_and_counted(tmp_path: Path) -> None:
    """The language of an answer."""
    foreign = {**PROMPT, "instruction_id_list": ["language:response_language"], "kwargs": [{"language": "kn"}]}
    path = written(tmp_path / "copy.jsonl", PROMPT, foreign)
    suite = ifeval.load(path, digest(path))
    assert ([item.key for item in suite.items], suite.left_out) == (["7"], 1)
    assert suite.items[0].solved_by("no comma")
    assert not suite.items[0].solved_by("a comma, here")
    assert not suite.items[0].solved_by(" ")


RULES: dict[str, list[tuple[dict[str, Any], str, str]]] = {
    "change_case:capital_word_frequency": [
        ({"capital_frequency": 2, "capital_relation": "at least"}, "GO and STOP", "GO and stop")
    ],
    "change_case:english_capital": [({}, "ALL OF IT 1", "Not all")],
    "change_case:english_lowercase": [({}, "all of it", "Not all")],
    "combination:repeat_prompt": [({"prompt_to_repeat": "Do it."}, "do it. Done", "Done")],
    "combination:two_responses": [({}, "a\n******\nb", "a\n******\na"), ({}, "a******b******", "a******b******c")],
    "detectable_content:number_placeholders": [({"num_placeholders": 2}, "[a] and [b]", "[a]")],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, "Yes.\nP. S. no", "Yes."),
        ({"postscript_marker": "P.P.S"}, "P.P.S. x", "P.S. x"),
    ],
    "detectable_format:constrained_response": [({}, "My answer is maybe.", "Maybe.")],
    "detectable_format:json_format": [({}, '```json\n{"a": 1}\n```', "{a: 1}")],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a SECTION 2 b", "SECTION 1 a")
    ],
    "detectable_format:number_bullet_lists": [({"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c")],
    "detectable_format:number_highlighted_sections": [({"num_highlights": 2}, "*a* and **b**", "*a* and ** **")],
    "detectable_format:title": [({}, "<<Title>>\ntext", "<< >>")],
    "keywords:existence": [({"keywords": ["ab", "c"]}, "AB c", "ab")],
    "keywords:forbidden_words": [({"forbidden_words": ["rock"]}, "rocks", "a Rock.")],
    "keywords:frequency": [({"keyword": "war", "frequency": 2, "relation": "less than"}, "war", "war War")],
    "keywords:letter_frequency": [({"letter": "t", "let_frequency": 2, "let_relation": "less than"}, "tea", "Tit")],
    "length_constraints:nth_paragraph_first_word": [
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "and"},
            "one\n\nAnd so",
            "and\n\nb",
        )
    ],
    "length_constraints:number_paragraphs": [({"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb")],
    "length_constraints:number_sentences": [
        ({"num_sentences": 3, "relation": "at least"}, "One. Two! Three?", "One. Two.")
    ],
    "length_constraints:number_words": [({"num_words": 3, "relation": "less than"}, "one two", "one two three")],
    "punctuation:no_comma": [({}, "none", "a, b")],
    "startend:end_checker": [({"end_phrase": "The end."}, "x the end.", "The end. x")],
    "startend:quotation": [({}, '"all of it"', '"some" of it')],
}


def test_every_rule_is_tried() -> None:
    """With a text that follows it, and one that does not."""
    assert RULES.keys() == ifeval.RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_a_rule_tells_texts_apart(name: str) -> None:
    """With the arguments that the suite gives."""
    for given, follows, breaks in RULES[name]:
        assert ifeval.RULES[name](follows, **given)
        assert not ifeval.RULES[name](breaks, **given)


def test_a_file_of_ones_own_has_answers_patterns_or_candidates(tmp_path: Path) -> None:
    """The kinds that are written may stand side by side."""
    path = written(
        tmp_path / "mine.jsonl",
        {"prompt": "6 × 7?", "answer": "42"},
        {"id": "prime", "prompt": "A prime?", "pattern": r"\b[2357]\b"},
    )
    first, second = own.load(path).items
    assert [first.solved_by("Answer: 42"), first.solved_by("42")] == [True, False]
    assert [second.solved_by("It is 7."), second.solved_by("It is 8.")] == [True, False]
    (judged,) = own.load(written(path, {"prompt": "?", "candidates": ["a", "b"], "best": 1})).items
    assert [judged.solved_by("a"), judged.solved_by("b")] == [False, True]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "?"}], "answer must be of type str"),
        ([{"answer": "1"}], "prompt must be"),
        ([{"prompt": "?", "pattern": "("}], "pattern"),
        ([{"prompt": "?", "candidates": ["a", "a"], "best": 0}], "two or more"),
        ([{"prompt": "?", "candidates": ["a", "b"], "best": 2}], "two or more"),
        ([{"prompt": "?", "answer": "1"}, {"prompt": "?", "candidates": ["a", "b"], "best": 0}], "some items"),
        ([{"id": "x", "prompt": "?", "answer": "1"}] * 2, "twice"),
        ([[]], "no object"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_place(rows: list[Any], says: str, tmp_path: Path) -> None:
    """Before anything is played."""
    with pytest.raises(ConfigError, match=says):
        own.load(written(tmp_path / "mine.jsonl", *rows))


def test_what_is_no_json_is_told_with_the_line_of_the_file(tmp_path: Path) -> None:
    """And with no other line."""
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "?", "answer": "1"}\n{"prompt": x}\n')
    with pytest.raises(ConfigError) as refused:
        own.load(path)
    assert str(refused.value) == f"{path}, line 2: not JSON: a value is expected, in column 12"


HEAD = Head(suite="own", sha256="a", seed=1, max_tokens=100, agents={"single": 1.0})


def line(item: str) -> Line:
    return Line(play="single", item=item, agents=1, rounds=0, verdicts={"single": (1.0, 5)})


def test_a_record_goes_on_where_it_stood(tmp_path: Path) -> None:
    """What was cut in the middle of a line is played again."""
    path = tmp_path / "runs" / "own.jsonl"
    record = Record(path)
    assert record.head is None
    record.begin(HEAD)
    record.add(line("1"))
    with path.open("ab") as file:
        file.write(b'{"play":"single","it')
    again = Record(path)
    assert (again.head, [*again.lines]) == (HEAD, [("single", "1")])
    again.add(line("2"))
    assert [*Record(path).lines] == [("single", "1"), ("single", "2")]


def test_a_record_of_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    """Another suite, copy, seed or length."""
    record = Record(tmp_path / "own.jsonl")
    record.begin(HEAD)
    record.goes_on_with(suite="own", seed=1)
    with pytest.raises(ConfigError, match="seed was 1, and is 2"):
        record.goes_on_with(suite="own", seed=2)
    (tmp_path / "other.jsonl").write_text("no JSON\n")
    with pytest.raises(ConfigError, match="no record"):
        Record(tmp_path / "other.jsonl")


def test_a_difference_has_an_interval_by_pairs() -> None:
    """Pairs that always differ alike leave nothing uncertain, however the answers vary."""
    assert difference([(1.0, 0.0), (0.5, -0.5)] * 10) == (1.0, 1.0, 1.0)
    lead, low, high = difference([(1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0)] * 10)
    assert (lead, low < 0 < high) == (0.0, True)


def test_a_suite_without_candidates_is_written() -> None:
    """An empty one, too."""
    assert not Suite("none", "", []).judges


class Priced:
    """Models of which an agent costs 100 tokens, and twice that where it also reads others."""

    def __init__(self, *, answer: bool = True) -> None:
        self.tried: list[tuple[str, int]] = []
        self._candidates = {"agent-dev-001": "…"} if answer else {}

    async def play_all(self, items: Sequence[Any], strategy: Strategy, agents: int) -> list[Any]:
        self.tried.append((strategy.name, agents))
        usage = SimpleNamespace(total=agents * (200 if strategy.options["rounds"] else 100))
        return [SimpleNamespace(state=SimpleNamespace(usage=usage, candidates=self._candidates, failures=()))] * 2


async def test_ways_are_given_the_tokens_of_a_council(tmp_path: Path) -> None:
    """Nothing is tried whose agents are known."""
    suite, models = own.load(written(tmp_path / "mine.jsonl", {"prompt": "?", "answer": "1"})), Priced()
    agents = await agents_of_plays(cast(Models, models), suite, suite.items, lambda _: None)
    assert agents == {"single": 1, "council": REFERENCE_AGENTS, "vote": 6, "mean": 6, "synthesis": REFERENCE_AGENTS}
    assert models.tried[:2] == [("single", 1), ("council", REFERENCE_AGENTS)]
    assert {name for name, _ in models.tried[2:]} == {"vote", "mean", "synthesis"}


async def test_without_an_answer_nothing_is_played(tmp_path: Path) -> None:
    """Where texts are given, no model is asked how many judges there are."""
    suite, mute = own.load(written(tmp_path / "mine.jsonl", {"prompt": "?", "answer": "1"})), Priced(answer=False)
    with pytest.raises(ConfigError, match="no model answers"):
        await agents_of_plays(cast(Models, mute), suite, suite.items, lambda _: None)
    judged = own.load(written(tmp_path / "other.jsonl", {"prompt": "?", "candidates": ["a", "b"], "best": 1}))
    agents = await agents_of_plays(cast(Models, mute), judged, judged.items, lambda _: None)
    assert agents.keys() == {play.strategy.name for play in plays(judges=True)}
    assert mute.tried == [("single", 1)]
