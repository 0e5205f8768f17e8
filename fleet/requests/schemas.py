"""Clients' JSON Schemas: compiled in the same way by who accepts a request and by who checks an answer.

Nothing outside the document is ever fetched: a `$ref` to another place is an error.
"""

from typing import Any

import jsonschema_rs


def compile(schema: dict[str, Any]) -> Any:
    """A validator. Raises ValueError, which says why, for what is no JSON Schema that stands alone."""
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse)
    except jsonschema_rs.ValidationError as error:
        raise ValueError(error.message) from None
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error)) from None


def bad_schema(schema: dict[str, Any]) -> str | None:
    """Why it cannot be compiled; None when it can."""
    try:
        compile(schema)
    except ValueError as error:
        return str(error)
    return None


def _refuse(uri: str) -> Any:
    raise LookupError("references to other documents are not followed")
