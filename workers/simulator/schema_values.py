"""Makes a valid instance of a JSON schema, as structured output would. Pure.

Understood: type, properties, required, additionalProperties, min/maxProperties, items, prefixItems,
min/maxItems, uniqueItems, enum, const, min/maxLength, pattern, format, minimum, maximum, exclusiveMinimum,
exclusiveMaximum, multipleOf, anyOf, oneOf, allOf and `$ref` within the document. Best effort: `pattern`, and
`oneOf` whose branches overlap. Strings say that they are simulated wherever the schema leaves room for it.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any

from workers.simulator.pattern_texts import UnsupportedPattern, spell
from workers.simulator.text import MARK, sentences

Schema = Mapping[str, Any]

_SHALLOW = 12  # deeper than this only what is required is made, so that recursive schemas end
_TOO_DEEP = 200
_TRIES = 40
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "simulated@example.com",
    "uri": "https://example.com/simulated",
}


_MOST = 10_000
"""Values in one instance; a hundred characters count for one. No model writes as much."""


class UnsupportedSchema(ValueError):
    """No instance can be made: the schema contradicts itself, or says something not understood here."""


def instance(schema: Schema | bool, words: Sequence[str], rng: Random, best: Collection[str] = ()) -> Any:
    """A value that is valid for `schema`, with strings about `words`. Raises UnsupportedSchema.

    Integers below the top-level members named in `best` are as large as they may be, lists apart.
    """
    try:
        return _InstanceBuilder(schema, words, rng, best).make(schema, 0)
    except UnsupportedPattern as error:
        raise UnsupportedSchema(str(error)) from error
    except (TypeError, AttributeError, LookupError, ArithmeticError, re.error) as error:
        raise UnsupportedSchema(f"malformed schema: {error!r}") from error


class _InstanceBuilder:
    def __init__(self, root: Schema | bool, words: Sequence[str], rng: Random, best: Collection[str]) -> None:
        self._root = root
        self._best = best
        self._rng = rng
        self._sentences = sentences(words, rng)
        self._made = 0.0

    def _count(self, values: float) -> None:
        self._made += values
        if self._made > _MOST:
            raise UnsupportedSchema(f"it asks for more than {_MOST:,} values")

    def make(self, schema: Schema | bool, depth: int, *, largest: bool = False) -> Any:
        if schema is False or depth > _TOO_DEEP:
            raise UnsupportedSchema("nothing is allowed here" if schema is False else "endless recursion")
        self._count(1)
        if schema is True:
            return self._text({})
        schema = self._flatten(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        match _kind(schema, self._rng):
            case "object":
                return self._object(schema, depth, largest)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._text(schema)
            case "integer":
                return int(self._multiple(schema, schema.get("multipleOf", 1), largest))
            case "number":
                return self._number(schema)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case other:
                raise UnsupportedSchema(f"unknown type {other!r}")

    def _flatten(self, schema: Schema, depth: int) -> Schema:
        """`schema` with its references followed, one branch chosen, and allOf merged in."""
        hops = 0
        while True:
            if "$ref" in schema:
                schema = _merge(_without(schema, "$ref"), self._resolve(schema["$ref"]))
            elif "allOf" in schema:
                parts = schema["allOf"]
                schema = _without(schema, "allOf")
                for part in parts:
                    schema = _merge(schema, part)
            elif "anyOf" in schema or "oneOf" in schema:
                name = "anyOf" if "anyOf" in schema else "oneOf"
                schema = _merge(_without(schema, name), self._branch(schema[name], depth))
            else:
                return schema
            hops += 1
            if hops > _TOO_DEEP:
                raise UnsupportedSchema("a $ref that leads to itself")

    def _branch(self, branches: Sequence[Schema], depth: int) -> Schema:
        if depth > _SHALLOW:
            branches = [branch for branch in branches if "$ref" not in branch] or branches
        return self._rng.choice(branches)

    def _resolve(self, reference: str) -> Schema:
        if not reference.startswith("#"):
            raise UnsupportedSchema(f"$ref outside the document: {reference}")
        node: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
        return node if isinstance(node, Mapping) else {}

    def _object(self, schema: Schema, depth: int, largest: bool) -> dict[str, Any]:
        properties: Schema = schema.get("properties", {})
        required: Sequence[str] = schema.get("required", ())
        others: Schema | bool = schema.get("additionalProperties", True)
        fewest, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        self._count(fewest)
        optional = [name for name in properties if name not in required]
        if depth > _SHALLOW:
            optional = optional[: max(0, fewest - len(required))]
        elif len(required) + len(optional) > most:
            optional = optional[: max(0, most - len(required))]
        chosen = {*required, *optional}
        names = [name for name in properties if name in chosen]
        names += [name for name in required if name not in properties]
        names += [f"simulated_{number}" for number in range(1, fewest - len(names) + 1)]
        return {
            name: self.make(
                properties.get(name, others), depth + 1, largest=largest or (depth == 0 and name in self._best)
            )
            for name in names
        }

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first: Sequence[Schema] = schema.get("prefixItems", ())
        rest: Schema | bool = schema.get("items", True)
        fewest, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if fewest > most:
            raise UnsupportedSchema("minItems is more than maxItems")
        self._count(fewest)
        length = max(fewest, len(first))
        if depth <= _SHALLOW and rest is not False:
            length = max(1, length) + self._rng.randrange(3)
        made: list[Any] = []
        for position in range(int(min(length, most))):
            item = first[position] if position < len(first) else rest
            value = self.make(item, depth + 1)
            if schema.get("uniqueItems"):
                again = _TRIES
                while value in made and again:
                    value, again = self.make(item, depth + 1), again - 1
                if value in made:
                    break
            made.append(value)
        if len(made) < fewest:
            raise UnsupportedSchema(f"found only {len(made)} different items of {fewest}")
        return made

    def _text(self, schema: Schema) -> str:
        fewest, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if fewest > most:
            raise UnsupportedSchema("minLength is more than maxLength")
        self._count(fewest / 100)
        text = _FORMATS.get(schema.get("format", "")) or f"{MARK} {next(self._sentences)}"
        while len(text) < fewest:
            text = f"{text} {' '.join(islice(self._sentences, 1 + int(fewest) // 100))}"
        if len(text) > most:
            text = text[: int(most)]
        pattern = schema.get("pattern")
        if pattern is None or re.search(pattern, text):
            return text
        for extra in range(_TRIES):
            text = spell(pattern, extra, self._rng)
            if fewest <= len(text) <= most and re.search(pattern, text):
                return text
        raise UnsupportedSchema(f"no text found for the pattern {pattern}")

    def _multiple(self, schema: Schema, step: float, largest: bool = False) -> float:
        low, high = _bounds(schema)
        first, last = math.ceil(low / step), math.floor(high / step)
        first += first * step <= schema.get("exclusiveMinimum", -math.inf)
        last -= last * step >= schema.get("exclusiveMaximum", math.inf)
        if first > last:
            raise UnsupportedSchema(f"no multiple of {step} between the bounds")
        return (last if largest else self._rng.randint(first, last)) * step

    def _number(self, schema: Schema) -> float:
        if step := schema.get("multipleOf"):
            return self._multiple(schema, step)
        low, high = _bounds(schema)
        above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
        value = low + (high - low) * (0.01 + 0.98 * self._rng.random())
        short = round(value, 2)  # 7.31 reads better than 7.3099999, where the bounds allow it
        for candidate in (short, value):
            if low <= candidate <= high and above < candidate < below:
                return candidate
        raise UnsupportedSchema("no number between the bounds")


def _kind(schema: Schema, rng: Random) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if kind:
        return str(rng.choice(kind))
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    return "number" if bounds & schema.keys() else "string"


def _without(schema: Schema, name: str) -> Schema:
    return {key: value for key, value in schema.items() if key != name}


def _merge(schema: Schema, more: Schema) -> Schema:
    merged = {**schema, **more}
    if "properties" in schema and "properties" in more:
        merged["properties"] = {**schema["properties"], **more["properties"]}
    if "required" in schema and "required" in more:
        merged["required"] = list(dict.fromkeys([*schema["required"], *more["required"]]))
    return merged


def _bounds(schema: Schema) -> tuple[float, float]:
    """Lowest and highest value; where one is open, a range of ten, as scores have."""
    lows = [schema[name] for name in ("minimum", "exclusiveMinimum") if name in schema]
    highs = [schema[name] for name in ("maximum", "exclusiveMaximum") if name in schema]
    if lows and highs:
        return max(lows), min(highs)
    if lows:
        return max(lows), max(lows) + 10
    if highs:
        return min(highs) - 10, min(highs)
    return 0, 10
