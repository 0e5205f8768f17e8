"""Compiles clients' JSON Schemas, in one way for the parser of requests and the validation of answers.

Nothing outside the document is ever fetched: a `$ref` to another place is an error.

A schema is small and what it says may be endless: with each `$ref` written out, 40 lines can come to a million million
schemas, and a validator goes through all of them. So what a schema expands to is counted, without expanding it, and
limited. A recursive schema is legitimate: a reference back into what is being expanded counts as one, and what it costs
depends on the answer. What a schema of this size can still cost is no concern here: `fleet.killable` limits that.
"""

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import jsonschema_rs

MAX_NODES = 50_000
"""JSON values of a schema with every reference written out."""
MAX_PLAIN_NODES = 5_000
MAX_PLAIN_STEPS = 5_000_000
"""Comparisons that validation by a plain schema takes at most: a fraction of a second."""

MAX_MEASURED = 4 * MAX_NODES
"""Steps of the count itself: parts that references lead to may lie within one another."""

_DEFINITIONS = ("$defs", "definitions")
_MAPS = (*_DEFINITIONS, "properties", "patternProperties", "dependentSchemas")
"""Keywords whose value has names for keys."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_PLAIN = frozenset(
    {
        *("$schema", "title", "description", "default", "examples", "type", "enum", "const", "required"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"),
        *("minItems", "maxItems", "minProperties", "maxProperties", "properties", "items", "additionalProperties"),
    }
)
"""With these alone each value of an answer meets one schema at most."""


def compile_schema(schema: dict[str, Any]) -> Any:
    """A validator. Raises ValueError, with the reason, for an invalid schema or one that refers to other documents."""
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse)
    except jsonschema_rs.ValidationError as error:
        raise ValueError(error.message) from None
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error)) from None


def bad_schema(schema: dict[str, Any]) -> str | None:
    """Why it cannot be compiled; None when it can."""
    try:
        compile_schema(schema)
    except ValueError as error:
        return str(error)
    return None


def too_large(schema: dict[str, Any]) -> str | None:
    """Why it must not be used: it expands to too much. Takes time for what is written, not for what it expands to."""
    if _Expansion(schema).nodes() <= MAX_NODES:
        return None
    return f"it has more than {MAX_NODES:,} values with every $ref written out"


def is_cheap(schema: dict[str, Any], characters: int) -> bool:
    """Whether it surely takes no time to speak of to compile it, and to validate a text of this length."""
    lists = _plain_lists(schema, [0])
    return lists is not None and characters * (1 + lists) <= MAX_PLAIN_STEPS


def _plain_lists(schema: Any, nodes: list[int]) -> int | None:
    """The length of its longest list that a single value is compared with; None where it is not plain."""
    if isinstance(schema, bool):
        return 0
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN:
        return None
    properties = schema.get("properties", {})
    inner = [schema[key] for key in ("items", "additionalProperties") if key in schema]
    if not isinstance(properties, dict):
        return None
    nodes[0] += len(schema) + len(properties)
    if nodes[0] > MAX_PLAIN_NODES:
        return None
    longest = max(len(properties), *(_size(schema[key]) for key in ("enum", "required", "const") if key in schema), 0)
    for each in (*properties.values(), *inner):
        lists = _plain_lists(each, nodes)
        if lists is None:
            return None
        longest = max(longest, lists)
    return longest


def _size(value: Any) -> int:
    """How many JSON values it is made of."""
    match value:
        case dict():
            return 1 + sum(map(_size, value.values()))
        case list():
            return 1 + sum(map(_size, value))
        case _:
            return 1


class _Expansion:
    """Counts what a document expands to: the parts that references lead to are measured once each."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._bases: dict[int, str] = {}
        self._resources: dict[str, Any] = {"": root}
        self._anchors: dict[tuple[str, str], Any] = {}
        self._locate(root, "")
        self._measured = 0

    def nodes(self) -> int:
        """More than `MAX_NODES` means: too many, whatever the number."""
        # Depth first, without recursion: a chain of references may be as long as the document.
        totals: dict[int, int | None] = {}  # None: being expanded
        path = [self._open(self._root, totals)]
        while True:
            part, total, references = path[-1]
            if total > MAX_NODES or self._measured > MAX_MEASURED:
                return MAX_NODES + 1
            if references:
                target = references.pop()
                if id(target) not in totals:
                    path.append(self._open(target, totals))
                else:
                    path[-1] = (part, total + (totals[id(target)] or 1), references)
                continue
            totals[id(part)] = total
            path.pop()
            if not path:
                return total
            part, before, references = path[-1]
            path[-1] = (part, before + total, references)

    def _open(self, part: Any, totals: dict[int, int | None]) -> tuple[Any, int, list[Any]]:
        totals[id(part)] = None
        references: list[Any] = []
        size = self._measure(part, references, "")
        return part, size, references

    def _measure(self, value: Any, references: list[Any] | None, key: str) -> int:
        """Its size as written; adds what it refers to, but not what its definitions do: they count where they are used.

        `key`: under which it lies, "" where that is a name, and no keyword.
        """
        self._measured += 1
        if self._measured > MAX_MEASURED:
            return 1
        match value:
            case dict():
                named = key in _MAPS
                for name in () if named else _REFERENCES:
                    if isinstance(reference := value.get(name), str):
                        target = self._target(reference, self._bases.get(id(value), ""))
                        if references is not None and target is not None:
                            references.append(target)
                return 1 + sum(
                    self._measure(
                        each, None if not named and name in _DEFINITIONS else references, "" if named else name
                    )
                    for name, each in value.items()
                )
            case list():
                return 1 + sum(self._measure(each, references, "") for each in value)
            case _:
                return 1

    def _locate(self, value: Any, base: str) -> None:
        """Where each `$id` and anchor is."""
        if isinstance(value, dict):
            for name in ("$id", "id"):
                if isinstance(uri := value.get(name), str):
                    base = _joined(base, uri)
                    self._resources.setdefault(urldefrag(base).url, value)
            for name in ("$anchor", "$dynamicAnchor"):
                if isinstance(anchor := value.get(name), str):
                    self._anchors.setdefault((urldefrag(base).url, anchor), value)
            self._bases[id(value)] = base
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self._locate(each, base)

    def _target(self, reference: str, base: str) -> Any:
        """None where it leads out of the document, or nowhere: to compile it will say so."""
        uri, fragment = urldefrag(_joined(base, reference))
        node = self._resources.get(uri)
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((uri, fragment))
        for step in unquote(fragment).split("/")[1:]:
            self._measured += 1
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = node.get(step)
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            else:
                return None
        return node if isinstance(node, dict) else None


def _joined(base: str, reference: str) -> str:
    """`urljoin`, which knows nothing of `urn:` and the like."""
    if reference.startswith("#"):
        return urldefrag(base).url + reference
    try:
        return urljoin(base, reference)
    except ValueError:
        return reference


def _refuse(uri: str) -> Any:
    raise LookupError("references to other documents are not followed")
