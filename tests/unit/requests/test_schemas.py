"""Clients' schemas: what they expand to is counted, not expanded; what is plain is known to be cheap."""

from typing import Any

import pytest

from fleet.requests.schemas import MAX_NODES, bad_schema, is_cheap, too_large


def doubling(links: int) -> dict[str, Any]:
    """Two references to the next link in each: 2^links schemas, and none of them is large."""
    chain = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(links)}
    return {"not": {"$ref": "#/$defs/a0"}, "$defs": {**chain, f"a{links}": {"type": "integer"}}}


def through(link: Any, end: Any) -> dict[str, Any]:
    """A chain of 40 links of another kind: `link(n)` is the name by which link n is referred to."""
    chain = {f"a{n}": {**end(n), "anyOf": [link(n + 1)] * 2} for n in range(40)}
    return {"not": link(0), "$defs": {**chain, "a40": {**end(40), "type": "integer"}}}


@pytest.mark.parametrize("links", [20, 40, 1000, 4000])
def test_references_that_double_are_refused_at_once(links: int) -> None:
    """However many there are: the sentence names the limit."""
    assert "50,000" in str(too_large(doubling(links)))


@pytest.mark.parametrize(
    "schema",
    [
        through(lambda n: {"$ref": f"#a{n}"}, lambda n: {"$anchor": f"a{n}"}),
        through(lambda n: {"$ref": f"http://fleet/a{n}"}, lambda n: {"$id": f"http://fleet/a{n}"}),
        through(lambda n: {"$ref": f"a{n}"}, lambda n: {"$id": f"a{n}"}) | {"$id": "http://fleet/root"},
        through(lambda n: {"$ref": f"urn:fleet:a{n}"}, lambda n: {"$id": f"urn:fleet:a{n}"}),
        through(lambda n: {"$dynamicRef": f"#a{n}"}, lambda n: {"$dynamicAnchor": f"a{n}"}),
        through(lambda n: {"$ref": f"#/%24defs/a{n}"}, lambda _: {}),
        {"allOf": [{"$ref": "#/$defs/big"}] * 200, "$defs": {"big": {"enum": list(range(500))}}},
        {"enum": list(range(MAX_NODES))},
    ],
    ids=["anchor", "id", "relative", "urn", "dynamic", "escaped", "wide", "long"],
)
def test_however_it_is_written(schema: dict[str, Any]) -> None:
    """A schema that comes to too much, and compiles."""
    assert too_large(schema)
    assert bad_schema(schema) is None


@pytest.mark.parametrize(
    "schema",
    [
        doubling(8),
        {"$ref": "#"},
        {"$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}}}}},
        {"properties": {"child": {"$ref": "#"}, "$ref": {"type": "string"}}},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$id": "http://[", "$ref": "http://["},
        {"const": {"$ref": 1}},
    ],
    ids=["few", "itself", "tree", "list", "nowhere", "metaschema", "no uri", "data"],
)
def test_what_is_small_or_recursive_is_taken(schema: dict[str, Any]) -> None:
    """A reference back into what is being expanded counts as one."""
    assert too_large(schema) is None


def test_a_long_chain_that_does_not_branch_is_taken() -> None:
    """Its length is no depth: nothing recurses into it."""
    chain = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(3_000)}
    assert too_large({"$ref": "#/$defs/a2990", "$defs": {**chain, "a3000": True}}) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"pattern": "a"},
        {"patternProperties": {"a": {}}},
        {"uniqueItems": True},
        {"properties": {"a": {"items": {"allOf": []}}}},
        {"unevaluatedProperties": False},
        {"enum": list(range(1_000_000))},
        {"properties": {str(n): {} for n in range(10_000)}},
        {"properties": "a"},
        {"items": [{}]},
        {"an unknown": "keyword"},
    ],
    ids=lambda schema: next(iter(schema)),
)
def test_only_plain_schemas_are_cheap(schema: dict[str, Any]) -> None:
    """Whatever else there is may take its time."""
    assert not is_cheap(schema, 1000)


def test_what_the_fleet_itself_asks_for_is_cheap() -> None:
    """And an ordinary schema of a client's, until the answer is very long."""
    point = {"type": "array", "items": {"type": "string", "maxLength": 240}, "maxItems": 3}
    schema = {
        "type": "object",
        "properties": {"a": point, "best": {"enum": ["A", "B"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert is_cheap(schema, 100_000)
    assert not is_cheap(schema, 10_000_000)
