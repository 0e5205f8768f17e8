"""Requests: every rule names its field, defaults are filled in, and null means absent."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import BadRequest
from fleet.requests.compiling import check_here
from fleet.requests.depth import MAX_DEPTH
from fleet.requests.parse import parse_request
from fleet.requests.task import Task
from fleet.requests.tolerance import ignored_fields

ROLES = {"DEV", "QA"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("task_description", "task_id", "role", "num_agents", "rounds", "constraints", "correlation", "options")


def parse(**body: Any) -> tuple[str, Task]:
    task_id, task = parse_request(json.dumps({"task_description": "x", **body}).encode(), 7, ROLES)
    check_here(task_id, task)
    return task_id, task


def test_defaults_are_filled_in() -> None:
    """Only the description is required; the id comes from the stream sequence."""
    assert parse() == ("d-7", Task(task_description="x"))


def test_null_means_absent() -> None:
    """Null for any optional field is its default."""
    given_null = parse(
        task_id=None,
        role=None,
        num_agents=None,
        rounds=None,
        constraints={"rubric": None, "requirements": None, "metadata": None, "timeout_seconds": None},
        correlation=None,
        options={"early_stop": None, "seed": None},
    )
    assert given_null == parse(constraints=None, options=None) == parse()


@pytest.mark.parametrize("empty", [{}, ""])
def test_empty_rubric_is_no_rubric(empty: object) -> None:
    """An empty rubric is the same as none."""
    assert parse(constraints={"rubric": empty}) == parse()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"task_description": None}, "$.task_description"),
        ({"task_description": "x" * 65_537}, "$.task_description"),
        ({"task_id": ""}, "$.task_id"),
        ({"task_id": "x" * 65}, "$.task_id"),
        ({"task_id": "a\n"}, "$.task_id"),
        ({"task_id": 5}, "$.task_id"),
        ({"task_id": "d-5"}, "$.task_id"),
        ({"role": "devs"}, "$.role"),
        ({"num_agents": 0}, "$.num_agents"),
        ({"num_agents": 1.5}, "$.num_agents"),
        ({"num_agents": "3"}, "$.num_agents"),
        ({"rounds": -1}, "$.rounds"),
        ({"rounds": 6}, "$.rounds"),
        ({"constraints": []}, "$.constraints"),
        ({"constraints": {"rubric": {"b": 1, "a": 0}}}, "$.constraints.rubric.a"),
        ({"constraints": {"rubric": {"a": 101}}}, "$.constraints.rubric.a"),
        ({"constraints": {"rubric": {"a": {"description": "x"}}}}, "$.constraints.rubric.a.weight"),
        ({"options": {"judges_per_proposal": 1}}, "$.options.judges_per_proposal"),
        ({"constraints": {"rubric": {str(n): 1 for n in range(21)}}}, "$.constraints.rubric"),
        ({"constraints": {"requirements": "one"}}, "$.constraints.requirements"),
        ({"constraints": {"requirements": [1]}}, "$.constraints.requirements[0]"),
        ({"constraints": {"timeout_seconds": 3601}}, "$.constraints.timeout_seconds"),
        ({"correlation": {"b": "x", "a": 1}}, "$.correlation.a"),
        ({"options": {"early_stop": "yes"}}, "$.options.early_stop"),
        ({"options": {"nonsense": 1}}, "$.options.nonsense"),
        ({"options": {"roles": ["DEV", "JANITOR"]}}, "$.options.roles[1]"),
        ({"options": {"roles": []}}, "$.options.roles"),
        ({"num_agents": 1, "options": {"roles": ["DEV", "QA"]}}, "$.options.roles"),
        ({"num_agents": 1, "options": {"models": ["a", "b"]}}, "$.options.models"),
        ({"options": {"models": [""]}}, "$.options.models[0]"),
        ({"options": {"selection": "best"}}, "$.options.selection"),
        ({"options": {"top_k": 1}}, "$.options.top_k"),
        ({"options": {"tie_margin": -1}}, "$.options.tie_margin"),
        ({"options": {"synthesis": 1}}, "$.options.synthesis"),
        ({"options": {"max_total_tokens": 0}}, "$.options.max_total_tokens"),
        ({"options": {"output_schema": {"type": "objct"}}}, "$.options.output_schema"),
        ({"options": {"output_schema": {"$ref": "http://127.0.0.1:9/schema"}}}, "$.options.output_schema"),
        ({"options": {"output_schema": {"$ref": "#/$defs/none"}}}, "$.options.output_schema"),
        ({"constraints": {"policy": {"forbiden": []}}}, "$.constraints.policy.forbiden"),
        ({"constraints": {"policy": {"required": ["a", "("]}}}, "$.constraints.policy.required[1]"),
        ({"constraints": {"policy": {"forbidden": [""]}}}, "$.constraints.policy.forbidden[0]"),
        ({"constraints": {"architect_rubric": {"a": "much"}}}, "$.constraints.architect_rubric.a"),
        ({"constraints": {"rubric": {" ": 1}}}, "$.constraints.rubric"),
        ({"constraints": {"requirements": ["fast", " "]}}, "$.constraints.requirements[1]"),
        ({"options": {"models": [" "]}}, "$.options.models[0]"),
        ({"constraints": {"policy": {"required": ["(a{1000}){1000}"]}}}, "$.constraints.policy.required[0]"),
    ],
)
def test_broken_rule_names_its_field(body: dict[str, Any], path: str) -> None:
    """The error's text contains the path of the field that breaks a rule."""
    with pytest.raises(BadRequest) as caught:
        parse(**body)
    assert (caught.value.code, caught.value.path) == ("invalid", path)
    assert path in caught.value.error


def test_a_task_id_that_breaks_its_rule_is_told_the_rule() -> None:
    """In words: people send ids with a colon or a space."""
    with pytest.raises(BadRequest) as caught:
        parse(task_id="a:b")
    assert caught.value.error == "$.task_id: expected 1 to 64 letters, digits, `_` or `-`"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"num_agents": 17}, "$.num_agents: must be at most 16, and is 17"),
        ({"num_agents": "3"}, "$.num_agents: expected a whole number or null, got a string"),
        ({"rounds": True}, "$.rounds: expected a whole number or null, got true"),
        ({"task_description": ""}, "$.task_description: must have at least 1 character, and has 0"),
        ({"task_description": ["x"]}, "$.task_description: expected a string, got a list"),
        ({"constraints": {"rubric": {"b": 1, "a": 0}}}, "$.constraints.rubric.a: must be more than 0, and is 0"),
        (
            {"constraints": {"rubric": {str(n): 1 for n in range(21)}}},
            "$.constraints.rubric: must have at most 20 fields, and has 21",
        ),
        ({"constraints": {"requirements": ["x", 1]}}, "$.constraints.requirements[1]: expected a string, got 1"),
        ({"options": {"roles": []}}, "$.options.roles: must have at least 1 entry, and has 0"),
        ({"options": {"nonsense": 1}}, "$.options.nonsense: there is no such field"),
        ({"options": {"cache": "yes"}}, "$.options.cache: expected one of off, refresh, use"),
        (
            {"constraints": {"rubric": {"a": {"description": "x"}}}},
            "$.constraints.rubric.a.weight: must be given, and is missing",
        ),
    ],
)
def test_a_broken_rule_is_told_in_plain_words(body: dict[str, Any], said: str) -> None:
    """The field, its bound and what it was, to clients of any language."""
    with pytest.raises(BadRequest) as caught:
        parse(**body)
    assert caught.value.error == said


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_an_empty_body_is_called_empty(body: bytes) -> None:
    """And not cut off."""
    with pytest.raises(BadRequest) as caught:
        parse_request(body, 7, ROLES)
    assert (caught.value.code, caught.value.path) == ("malformed", "$")
    assert caught.value.error == "$: the body is empty"


def test_council_has_a_seat_for_each_role_and_model() -> None:
    """Without `num_agents`: one agent for each role, enough for each model, three otherwise."""
    assert parse(options={"roles": ["DEV", "QA"]})[1].num_agents == 2
    assert parse(options={"models": ["a", "b"]})[1].num_agents == 3
    assert parse(options={"models": ["a", "b", "c", "d"]})[1].num_agents == 4
    assert parse()[1].num_agents == 3
    assert parse(num_agents=5, options={"roles": ["DEV", "QA"]})[1].num_agents == 5


def test_criteria_may_say_what_they_mean() -> None:
    """Weights count, descriptions reach the prompts; both forms may stand side by side."""
    task = parse(constraints={"rubric": {"cost": {"weight": 2, "description": " cheap to run "}, "speed": 1}})[1]
    assert (task.rubric, task.descriptions) == ({"cost": 2.0, "speed": 1.0}, {"cost": "cheap to run"})
    assert parse(constraints={"reference": "  "})[1].reference is None


def test_blank_rubric_is_an_absent_one() -> None:
    """As an empty one is."""
    assert parse(constraints={"rubric": "  "})[1].rubric is None
    assert parse(constraints={"architect_rubric": {}})[1].architect_rubric is None


def test_role_of_a_mixed_council_is_its_first() -> None:
    """Where the request names none: its rubric is the default one."""
    assert parse(options={"roles": ["QA", "DEV"]})[1].role == "QA"
    assert parse(role="DEV", options={"roles": ["QA", "DEV"]})[1].role == "DEV"


def test_case_of_a_role_does_not_matter() -> None:
    """It becomes the configured spelling, so that the same request in another case is the same task."""
    assert parse(role="qa") == parse(role="QA")
    assert parse(role="qa")[1].role == "QA"
    assert parse(options={"roles": ["qa", "Dev"]})[1].roles == ("QA", "DEV")


def test_a_role_that_differs_by_case_alone_is_itself() -> None:
    """Where the configuration has both spellings."""
    assert parse_request(b'{"task_description": "x", "role": "dev"}', 7, {"DEV", "dev"})[1].role == "dev"


def test_an_integral_float_is_an_integer() -> None:
    """As JSON Schema has it: some encoders know one kind of number only."""
    body = b'{"task_description": "x", "num_agents": 3.0, "rounds": 1e0, "options": {"seed": 1e3, "top_k": 2.0}}'
    _, task = parse_request(body, 7, ROLES)
    assert (task.num_agents, task.rounds, task.seed, task.top_k) == (3, 1, 1000, 2)
    assert all(isinstance(value, int) for value in (task.num_agents, task.rounds, task.seed, task.top_k))


@pytest.mark.parametrize(("field", "value"), [("num_agents", "3.5"), ("rounds", "6.0"), ("options", '{"seed": 1e19}')])
def test_a_float_that_is_no_valid_integer_is_rejected(field: str, value: str) -> None:
    """A fraction, or one out of bounds."""
    with pytest.raises(BadRequest) as caught:
        parse_request(f'{{"task_description": "x", "{field}": {value}}}'.encode(), 7, ROLES)
    assert caught.value.path.startswith(f"$.{field}")


def test_unknown_fields_are_named() -> None:
    """At the top and in `constraints`; few and short enough for an event."""
    body = {"task_description": "x", "roundz": 2, "constraints": {"rubrik": {}, "metadata": {"any": 1}}}
    assert ignored_fields(json.dumps(body).encode()) == ("roundz", "constraints.rubrik")
    many = {f"{number:03d}" * 100: None for number in range(1000)}
    names = ignored_fields(json.dumps(many).encode())
    assert (len(names), max(map(len, names))) == (20, 65)


def test_roles_are_not_judged_where_they_are_not_known() -> None:
    """A client checks what it can; which roles there are, only the fleet knows."""
    _, task = parse_request(b'{"task_description": "x", "role": "POET", "options": {"roles": ["BARD"]}}', 7, None)
    assert (task.role, task.roles) == ("POET", ("BARD",))


def test_what_can_be_read_is_told() -> None:
    """A rejection carries the task id and the correlation where they are readable."""
    with pytest.raises(BadRequest) as caught:
        parse(task_id="mine", correlation={"a": "b"}, rounds=9)
    assert (caught.value.task_id, caught.value.correlation) == ("mine", {"a": "b"})


def test_deep_nesting_in_an_ignored_field_is_refused_by_name() -> None:
    """However deep it nests, the answer is a rejection that names the field, and the id is still read."""
    body = b'{"task_id": "deep", "task_description": "x [[[", "extra": ' + b'{"a":[' * 60_000 + b"}"
    with pytest.raises(BadRequest) as caught:
        parse_request(body, 7, ROLES)
    assert (caught.value.path, caught.value.task_id) == ("$.extra.a", "deep")


def test_allowed_depth_is_allowed() -> None:
    """Brackets in texts do not count, and a request as deep as allowed passes."""
    metadata: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 3):
        metadata = {"a": metadata}
    _, task = parse(task_description="[{" * 500, constraints={"metadata": metadata})
    assert task.metadata == metadata


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_parsed_or_rejected(data: bytes) -> None:
    """No input raises anything but `BadRequest`."""
    _parsed_or_rejected(data)


def _parsed_or_rejected(data: bytes) -> None:
    try:
        parse_request(data, 7, ROLES)
        ignored_fields(data)
    except BadRequest as error:
        rejected = error
    else:
        return
    assert rejected.path.startswith("$")
    assert rejected.path in rejected.error
    assert not re.search(r"Expected|Object |Invalid | - at `", rejected.error), "the parser's own words"


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
@settings(deadline=None)
def test_any_json_is_parsed_or_rejected(body: dict[str, Any]) -> None:
    """Fields of any type are either understood or named."""
    _parsed_or_rejected(json.dumps(body).encode())


@pytest.mark.parametrize(
    "body",
    [
        {"options": {"x" * 100_000: 1}},
        {"constraints": {"rubric": {"x" * 100_000: -1}}},
        {"correlation": {"x" * 100_000: 1}},
    ],
)
def test_an_error_repeats_little_of_what_the_client_wrote(body: dict[str, Any]) -> None:
    """It goes into events, dead letters and logs; it still begins with the path."""
    with pytest.raises(BadRequest) as raised:
        parse_request(json.dumps({"task_description": "x", **body}).encode(), 1, None)
    assert len(raised.value.error) <= 1_000
    assert len(raised.value.path) <= 300
    assert raised.value.path in raised.value.error


@pytest.mark.parametrize("before", [0, 100_000])
@pytest.mark.parametrize(("depth", "fine"), [(MAX_DEPTH - 4, True), (MAX_DEPTH - 3, False)])
def test_what_nests_is_counted_wherever_it_stands(before: int, depth: int, fine: bool) -> None:
    """Brackets in strings do not nest, and a long request is not read piece by piece to name the field."""
    texts = json.dumps(['[{\\"' * 100, "}" * 100])
    nested = "[" * depth + "]" * depth
    metadata = f'{{"x": [{texts}, {nested}]}}'
    ignored = f"[{'{},' * before}{texts}]"
    body = f'{{"ignored": {ignored}, "task_description": "x", "constraints": {{"metadata": {metadata}}}}}'
    if fine:
        parse_request(body.encode(), 1, None)
    else:
        with pytest.raises(BadRequest, match="nested deeper") as raised:
            parse_request(body.encode(), 1, None)
        assert raised.value.path == ("$" if before else "$.constraints.metadata")
