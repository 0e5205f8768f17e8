"""Builds JSON Schemas of messages that code generators understand.

msgspec's own schemas are right, but generators stumble over them: they make an empty type of `anyOf` with null, and an
optional field of one with a `default`. So here a field that may be null has `type: [T, "null"]`, no field has a
default, and every field that is always sent is required.
"""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, get_args

import msgspec

from fleet.messages.base import Phase

PREFIX = "#/components/schemas/"
Schema = dict[str, Any]


def schemas(kinds: Collection[type[msgspec.Struct]], optional: Collection[str]) -> dict[str, Schema]:
    """By class name: the schemas of these messages and of everything in them.

    `optional`: names of classes whose fields a client may leave out or send as null. All fields of all others are
    always sent, but those of classes that omit their defaults: these are left out and never null.
    """
    _, raw = msgspec.json.schema_components(kinds, ref_template=PREFIX + "{name}")
    omitting = {kind.__name__ for kind in kinds if kind.__struct_config__.omit_defaults}
    builder = _Builder(raw, {*optional} | omitting, omitting)
    return {name: builder.struct(name) for name in raw}


def reference(name: str) -> Schema:
    """A reference to the schema of this name."""
    return {"$ref": PREFIX + name}


class _Builder:
    """Rewrites msgspec's schemas. `raw`: all of them, by class name."""

    def __init__(self, raw: Mapping[str, Schema], optional: Collection[str], omitting: Collection[str]) -> None:
        self._raw = raw
        self._optional = optional
        self._omitting = omitting

    def struct(self, name: str) -> Schema:
        schema = self._raw[name]
        properties = {field: _named(name, field, self._plain(value)) for field, value in schema["properties"].items()}
        if name in self._omitting:
            properties = {field: _not_null(value) for field, value in properties.items()}
        required = schema["required"] if name in self._optional else list(properties)
        schema = {**schema, "description": inspect.cleandoc(schema["description"]), "properties": properties}
        return (
            {**schema, "required": required} if required else {key: schema[key] for key in schema.keys() - {"required"}}
        )

    def _plain(self, schema: Any) -> Any:
        """The same schema without defaults, and with unions as lists of types."""
        if not isinstance(schema, dict):
            return [self._plain(item) for item in schema] if isinstance(schema, list) else schema
        if "anyOf" in schema:
            return self._union(schema["anyOf"])
        plain = {key: self._plain(value) for key, value in schema.items() if key != "default"}
        if "enum" in plain:
            plain["type"] = "string"
        if "pattern" in plain:
            plain["pattern"] = plain["pattern"].replace(r"\Z", "$")  # JSON Schema has JavaScript's patterns
        return plain

    def _union(self, options: list[Schema]) -> Schema:
        nullable = {"type": "null"} in options
        some = [option for option in options if option != {"type": "null"}]
        if len(some) == 1 and "anyOf" in some[0]:
            return self._union(some[0]["anyOf"])  # of several messages, or left out
        structs = [option["$ref"].removeprefix(PREFIX) for option in some if "$ref" in option]
        if len(structs) > 1:
            return {"oneOf": [reference(name) for name in structs]}
        # Written out: generators lose the name of a reference beside null.
        parts = [self.struct(name) for name in structs]
        parts += [self._plain(option) for option in some if "$ref" not in option]
        merged: Schema = {}
        for part in parts:
            merged |= part
        types = [part["type"] for part in parts] + ["null"] * nullable
        if "enum" in merged and nullable:
            merged["enum"] = [*merged["enum"], None]
        return merged | {"type": types if len(types) > 1 else types[0]}


def _named(struct: str, field: str, schema: Schema) -> Schema:
    """Generators number what has no name: enumerations get one."""
    if "enum" not in schema:
        return schema
    phase = {*schema["enum"]} - {None} == {*get_args(Phase)}
    return schema | {"title": "Phase" if phase else struct + field.title().replace("_", "")}


def _not_null(schema: Schema) -> Schema:
    if not isinstance(schema.get("type"), list):
        return schema
    (kind,) = (kind for kind in schema["type"] if kind != "null")
    plain = schema | {"type": kind}
    return plain | {"enum": [value for value in schema["enum"] if value is not None]} if "enum" in schema else plain
