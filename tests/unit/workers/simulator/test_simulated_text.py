import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from msgspec import convert

from workers.simulator.engine import PrefixCache
from workers.simulator.faults import FAULT_KINDS, FaultKind, Faults
from workers.simulator.schema_values import Schema, UnsupportedSchema, instance
from workers.simulator.text import (
    MARK,
    dice,
    keywords,
    prompt_ids,
    proposal,
    split_tokens,
    token_ids,
)

WORDS = ["rate limiter", "Redis"]
unhurried = settings(deadline=None)  # a busy machine is no failure


class TestTokens:
    @unhurried
    @given(st.text())
    def test_tokens_joined_are_the_text(self, text: str) -> None:
        """No character is lost or doubled between tokens."""
        assert "".join(split_tokens(text)) == text

    @unhurried
    @given(st.text())
    def test_every_token_has_a_number(self, text: str) -> None:
        """Counting by numbers and counting by pieces agree."""
        assert len(token_ids(text)) == len(split_tokens(text))

    def test_ids_of_a_text_can_be_changed_without_changing_the_cache(self) -> None:
        """A caller gets its own copy."""
        token_ids("one two").append(7)
        assert len(token_ids("one two")) == 2

    def test_a_longer_conversation_begins_with_the_tokens_of_the_shorter(self) -> None:
        """What has been said stays a prefix, except for the mark that asks for an answer."""
        short = prompt_ids([("user", "one")])
        longer = prompt_ids([("user", "one"), ("assistant", "two"), ("user", "three")])
        head = len(short) - len(token_ids("<|assistant|>\n"))
        assert longer[:head] == short[:head]


class TestProse:
    def test_keywords_come_from_the_last_user_message(self) -> None:
        """Without anything marked as the task, what the user said last is the task."""
        messages = [
            ("user", "Bake bread"),
            ("assistant", "Fine"),
            ("user", "Design a rate limiter for the API"),
        ]
        assert keywords(messages) == ["rate limiter", "API"]

    @pytest.mark.parametrize(
        "marked", ["# Task\n\nShard the ledger", "Task: Shard the ledger", "<task>Shard the ledger</task>"]
    )
    def test_keywords_come_from_what_is_marked_as_task(self, marked: str) -> None:
        """A heading, a line or a tag that says "task" beats the rest of the conversation."""
        assert keywords([("user", marked), ("user", "Criticise these proposals harshly")]) == [
            "Shard",
            "ledger",
        ]

    @unhurried
    @given(st.text())
    def test_there_are_always_keywords(self, text: str) -> None:
        """No prompt leaves the text without a subject."""
        assert keywords([("user", text)])

    @unhurried
    @given(st.integers(), st.integers(min_value=10, max_value=1_000))
    def test_a_proposal_is_about_as_long_as_asked(self, seed: int, typical: int) -> None:
        """Lengths spread around `typical_tokens`, and what is counted is what a reader would count."""
        tokens = proposal(WORDS, dice(seed), typical)
        assert round(typical * 0.6) <= len(tokens) <= round(typical * 1.4)
        assert split_tokens("".join(tokens)) == tokens

    def test_a_proposal_says_that_it_is_simulated_and_speaks_of_the_task(self) -> None:
        """Heading, numbered steps, words of the prompt."""
        text = "".join(proposal(WORDS, dice(1), 120))
        assert text.startswith(f"{MARK} Proposal: rate limiter, Redis\n\n1. ")
        assert "\n2. " in text

    def test_the_same_key_gives_the_same_proposal(self) -> None:
        """Text depends on the key and on nothing else."""
        assert proposal(WORDS, dice(1, "a"), 60) == proposal(WORDS, dice(1, "a"), 60)

    def test_different_keys_give_different_proposals(self) -> None:
        """Different seeds are different answers."""
        assert len({"".join(proposal(WORDS, dice(seed), 60)) for seed in range(50)}) == 50


REVIEW: Schema = {
    "$defs": {
        "Note": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#/$defs/Note"}, {"type": "null"}]},
            },
            "required": ["text", "next"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["A", "B"]},
        "kind": {"const": "review"},
        "scores": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
        "score": {"type": "number", "minimum": 0, "exclusiveMaximum": 10},
        "votes": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 5}, "minItems": 3},
        "note": {"$ref": "#/$defs/Note"},
        "maybe": {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["label", "kind", "scores", "score", "votes", "note", "maybe", "undeclared"],
}

SCHEMAS: list[Schema | bool] = [
    True,
    {},
    REVIEW,
    {"type": "string", "minLength": 200, "maxLength": 210},
    {"type": "string", "maxLength": 4},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}(?:x|yz)?$"},
    {"type": "string", "pattern": "^[^a-m]+$", "minLength": 5, "maxLength": 9},
    {"type": "string", "pattern": "simulated"},
    {"type": "string", "format": "date-time"},
    {"type": ["integer", "null"], "minimum": 3},
    {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3},
    {"type": "integer", "minimum": 0.5, "maximum": 1.5},
    {"type": "integer", "multipleOf": 7, "minimum": 8},
    {"type": "number", "multipleOf": 0.5, "maximum": -1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    {"type": "number", "minimum": 2, "maximum": 2},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False},
    {"type": "array", "items": {"type": "string"}, "maxItems": 0},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"required": ["a"]}]},
    {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
    },
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["c"], "maxProperties": 2},
]


class TestJson:
    @pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
    def test_an_instance_is_valid(self, schema: Schema | bool) -> None:
        """A validator that knows nothing of us agrees, whatever the seed."""
        validator: Any = Draft202012Validator(schema)
        for seed in range(40):
            validator.validate(instance(schema, WORDS, dice(seed)))

    @unhurried
    @given(st.integers(-1_000, 1_000), st.integers(0, 1_000), st.integers())
    def test_integers_stay_within_bounds(self, low: int, width: int, seed: int) -> None:
        """Both bounds belong to the range."""
        value = instance({"type": "integer", "minimum": low, "maximum": low + width}, WORDS, dice(seed))
        assert low <= value <= low + width

    def test_integers_spread_over_the_whole_range(self) -> None:
        """Scores are not all alike."""
        schema = {"type": "integer", "minimum": 0, "maximum": 10}
        assert {instance(schema, WORDS, dice(seed)) for seed in range(300)} == set(range(11))

    @pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
    def test_the_best_instance_is_valid_too(self, schema: Schema | bool) -> None:
        """Lists that must not repeat, exclusive bounds and steps included."""
        wrapped = {
            "type": "object",
            "properties": {"A": schema},
            "required": ["A"],
            "$defs": schema.get("$defs", {}) if isinstance(schema, dict) else {},
        }
        for seed in range(10):
            Draft202012Validator(wrapped).validate(instance(wrapped, WORDS, dice(seed), {"A"}))

    def test_the_best_instance_has_the_highest_integers_under_the_members_named(self) -> None:
        """However deep, but not elsewhere."""
        score = {"type": "integer", "minimum": 0, "maximum": 10}
        card = {"type": "object", "properties": {"cost": {"type": "object", "properties": {"score": score}}}}
        schema = {"type": "object", "properties": {"A": card, "B": card}}
        made = [instance(schema, WORDS, dice(seed), {"A"}) for seed in range(50)]
        assert {each["A"]["cost"]["score"] for each in made} == {10}
        assert len({each["B"]["cost"]["score"] for each in made}) > 5

    def test_strings_say_that_they_are_simulated(self) -> None:
        """Free text carries the mark."""
        assert instance({"type": "string"}, WORDS, dice(0)).startswith(MARK)

    @pytest.mark.parametrize(
        "schema",
        [
            False,
            {"$ref": "#/$defs/missing"},
            {"$ref": "#"},
            {"$ref": "https://example.com/schema"},
            {"type": "integer", "minimum": 2, "maximum": 1},
            {"type": "string", "minLength": 2, "maxLength": 1},
            {"type": "string", "pattern": "("},
            {"type": "string", "pattern": "^(?=b)a$"},
            {"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2},
            {"type": "cheese"},
            {"enum": []},
            {"properties": 7},
            {"type": "object", "properties": {"again": {"$ref": "#"}}, "required": ["again"]},
        ],
    )
    def test_a_schema_nothing_can_satisfy_is_refused(self, schema: Schema | bool) -> None:
        """An error that names the trouble, never a wrong instance or an endless loop."""
        with pytest.raises(UnsupportedSchema):
            instance(schema, WORDS, dice(0))

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string", "minLength": 1_000_000_000},
            {"type": "string", "minLength": 1e308},
            {"type": "object", "minProperties": 1_000_000_000},
            {"type": "array", "minItems": 1_000, "items": {"type": "array", "minItems": 1_000}},
        ],
    )
    def test_a_schema_that_asks_for_more_than_a_model_writes_is_refused(self, schema: Schema) -> None:
        """It would keep the simulator busy for all others, and fill the memory."""
        with pytest.raises(UnsupportedSchema, match="more than"):
            instance(schema, WORDS, dice(0))


class TestFaults:
    def test_no_faults_are_drawn_by_default(self) -> None:
        """A server that was not told to fail does not."""
        assert {Faults().draw(0, number) for number in range(1_000)} == {None}

    @pytest.mark.parametrize("kind", FAULT_KINDS)
    def test_a_certain_fault_is_always_drawn(self, kind: FaultKind) -> None:
        """Probability 1 leaves nothing to chance."""
        faults = convert({kind: 1.0}, Faults)
        assert {faults.draw(seed, number) for seed in range(10) for number in range(10)} == {kind}

    def test_faults_come_about_as_often_as_asked(self) -> None:
        """The draws follow the probabilities."""
        draws = [Faults(stall=0.2, refuse=0.1).draw(3, number) for number in range(10_000)]
        assert 1_800 < draws.count("stall") < 2_200
        assert 850 < draws.count("refuse") < 1_150

    def test_only_the_first_requests_fail(self) -> None:
        """`only_first` ends the trouble after so many requests."""
        faults = Faults(http_500=1.0, only_first=2)
        assert [faults.draw(0, number) for number in range(4)] == ["http_500", "http_500", None, None]

    def test_a_flapping_server_is_down_every_other_period(self) -> None:
        """It starts up, and changes after each period."""
        faults = Faults(flapping=2.0)
        assert [faults.is_down(at) for at in (0.0, 1.9, 2.0, 3.9, 4.0)] == [False, False, True, True, False]

    @pytest.mark.parametrize("wrong", [{"stall": -0.1}, {"stall": 0.6, "hang": 0.6}, {"retry_after_s": -1}])
    def test_impossible_probabilities_are_refused(self, wrong: dict[str, float]) -> None:
        """A mistake in an experiment shows at once."""
        with pytest.raises(ValueError, match=re.compile("probabilities|negative")):
            Faults(**wrong)  # type: ignore[arg-type]


class TestPrefixCache:
    def test_a_repeated_prompt_is_cached_in_whole_blocks_but_for_its_last_token(self) -> None:
        """33 tokens are two blocks and one; of exactly 32 the last is computed, its block with it."""
        cache = PrefixCache(100)
        ids = token_ids(" word" * 33)
        assert [cache.admit("m", ids), cache.admit("m", ids), cache.admit("m", ids[:32])] == [0, 32, 16]

    def test_only_a_common_beginning_counts(self) -> None:
        """A block is known by everything before it, not by its own tokens alone."""
        cache = PrefixCache(100)
        cache.admit("m", token_ids(" same" * 64))
        assert cache.admit("m", token_ids(" other" * 16 + " same" * 64)) == 0
        assert cache.admit("m", token_ids(" same" * 32 + " other" * 32)) == 32

    def test_models_share_nothing(self) -> None:
        """Another model has another cache."""
        cache = PrefixCache(100)
        cache.admit("m", token_ids(" same" * 64))
        assert cache.admit("n", token_ids(" same" * 64)) == 0

    def test_a_full_cache_forgets_tails_before_heads(self) -> None:
        """What others may still share is kept longest."""
        cache = PrefixCache(3)
        ids = token_ids(" word" * 65)
        cache.admit("m", ids)
        assert cache.admit("m", ids) == 48
