"""Validates Kubernetes objects in YAML and JSON blocks against the newest bundled schemas."""

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import jsonschema_rs
import kubernetes_validate
import yaml

from fleet.messages import Check
from workers.checks import yaml_nodes
from workers.checks.data import Document
from workers.checks.fences import elided
from workers.checks.findings import Findings

MAX_OBJECTS = 500

_API_VERSION = re.compile(r"(?:([a-z0-9.-]+)/)?(v[a-z0-9]+)")
_KIND = re.compile(r"[A-Za-z]{1,63}")
_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
_PATCHES = re.compile(
    r"kustomiz|strategic[ -]merge|\$patch|patch[\w-]{0,40}\.ya?ml|kubectl (?:patch|set)", re.IGNORECASE
)
_PLACEHOLDER = re.compile(r"\$[{(]|<[^<>]+>|\{\{")


def check(documents: list[Document], text: str) -> Check:
    """Unknown fields are errors; custom resources, and kinds of older versions, are not looked at.

    A required field may be missing where the block marks by `...` that it leaves something out, and in proposals that
    speak of patches (Kustomize); a placeholder such as `${REPLICAS}` may stand for anything.
    """
    findings = Findings()
    patches = _PATCHES.search(text) is not None
    left = MAX_OBJECTS
    for document in documents:
        try:
            value = _value(document)
        except yaml_nodes.TooLarge:
            findings.unchecked("the document's aliases, depth or length go too far", document.block, _line(document))
            continue
        except (yaml.YAMLError, ValueError):
            continue  # the schema has nothing to say about what is no JSON value
        for path, item in _objects(value):
            if left == 0:
                findings.unchecked(f"more than {MAX_OBJECTS} Kubernetes objects", document.block, _line(document, path))
                return findings.check()
            left -= 1
            _validate(document, path, item, findings, partial=patches or document.block.elided)
    return findings.check()


def _value(document: Document) -> Any:
    if document.node is None:
        return document.value
    kind, version = (yaml_nodes.scalar(document.node, key) for key in ("kind", "apiVersion"))
    return None if kind is None or version is None else yaml_nodes.value(document.node)


def _objects(value: Any) -> Iterator[tuple[list[str | int], dict[str, Any]]]:
    """The object itself, or the items of a `List`, with their paths."""
    if not isinstance(value, dict):
        return
    if value.get("apiVersion") == "v1" and value.get("kind") == "List" and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            if isinstance(item, dict):
                yield ["items", index], item
    else:
        yield [], value


def _validate(
    document: Document, path: list[str | int], item: dict[str, Any], findings: Findings, *, partial: bool
) -> None:
    version, kind = item.get("apiVersion"), item.get("kind")
    validator = _validator(version, kind) if isinstance(version, str) and isinstance(kind, str) else None
    if validator is None:
        return
    findings.applied = True
    try:
        for error in validator.iter_errors(item):
            if partial and error.kind.name == "required":
                continue
            if isinstance(error.instance, str) and (elided(error.instance) or _PLACEHOLDER.search(error.instance)):
                continue
            where = [*path, *error.instance_path]
            unexpected = next(iter(getattr(error.kind, "unexpected", ())), None)
            at = _line(document, where if unexpected is None else [*where, unexpected])
            name = ".".join(map(str, where)) or "the object"
            findings.wrong(f"{kind} ({version}): {name}: {error.message}", document.block, at)
    except ValueError:
        findings.unchecked("the document cannot be read as JSON values", document.block, _line(document, path))


def _line(document: Document, path: list[str | int] | None = None) -> int:
    """Of JSON only the path is known."""
    return 1 if document.node is None else yaml_nodes.line(document.node, path or [])


@lru_cache(maxsize=256)
def _validator(api_version: str, kind: str) -> Any:
    """None for what the bundled version does not know. Files are named by kind and by the first label of the group."""
    version = _API_VERSION.fullmatch(api_version)
    if version is None or not _KIND.fullmatch(kind):
        return None
    group = version[1] or ""
    file = _folder() / "-".join(filter(None, [kind.lower(), group.partition(".")[0], f"{version[2]}.json"]))
    if not file.is_file():
        return None
    schema = json.loads(file.read_text(encoding="utf-8"))
    served = [
        (each["group"], each["version"], each["kind"].lower())
        for each in schema.get("x-kubernetes-group-version-kind", ())
    ]
    if (group, version[2], kind.lower()) not in served:
        return None
    return jsonschema_rs.validator_for(schema, registry=_definitions())


@cache
def _definitions() -> Any:
    text = (_folder() / "_definitions.json").read_text(encoding="utf-8")
    return jsonschema_rs.Registry([(_DEFINITIONS, json.loads(text))])


@cache
def _folder() -> Traversable:
    newest = kubernetes_validate.latest_version()
    return files("kubernetes_validate") / "kubernetes-json-schema" / f"v{newest}-local-strict"
