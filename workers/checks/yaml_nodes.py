"""Reads YAML as a graph of nodes, which keeps line numbers and stays as small as the text, whatever its aliases."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

MAX_NODES = 50_000
"""Of one document with every alias written out."""
MAX_DEPTH = 100

_NOT_AS_KUBERNETES = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")


class TooLarge(Exception):
    """An alias bomb, an alias that contains itself, or a nesting that nobody writes."""


class Loader(yaml.CSafeLoader):
    """Scalars as Kubernetes reads them: no dates, no numbers to the base of 60. Unknown tags are ignored."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_AS_KUBERNETES]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)


def _untagged(loader: Any, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor(None, _untagged)


def compose(text: str) -> list[yaml.Node]:
    """All documents. Raises `yaml.YAMLError`."""
    return [node for node in yaml.compose_all(text, Loader=Loader) if node is not None]


def value(node: yaml.Node) -> Any:
    """A document as JSON values. Raises `TooLarge`, `yaml.YAMLError`, ValueError."""
    _measure(node, {}, 0)
    loader = Loader("")
    try:
        return _json(loader.construct_document(node))
    finally:
        loader.dispose()


def scalar(node: yaml.Node, key: str) -> str | None:
    """The string under `key` of a mapping; None if it is none."""
    child_node = child(node, key)
    return child_node.value if isinstance(child_node, yaml.ScalarNode) and child_node.tag.endswith(":str") else None


def child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((child_node for key, child_node in node.value if key.value == step), None)
    return None


def line(node: yaml.Node, path: Sequence[str | int]) -> int:
    """Where `path` leads, or the last step of it that is there; a mapping's entry begins at its key."""
    at: int = node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            at = next((key.start_mark.line + 1 for key, _ in node.value if key.value == step), at)
        child_node = child(node, step)
        if child_node is None:
            break
        if isinstance(node, yaml.SequenceNode):
            at = child_node.start_mark.line + 1
        node = child_node
    return at


def _measure(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    if depth > MAX_DEPTH:
        raise TooLarge
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_measure(part, known, depth + 1) for part in children)
    if known[id(node)] > MAX_NODES:
        raise TooLarge
    return known[id(node)]


def _json(value: Any) -> Any:
    match value:
        case dict():
            return {_key(key): _json(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [_json(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
