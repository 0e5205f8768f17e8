"""Marks the later variants of a test as slow: `make test` tries the first few, and `make test-all` every one."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def some_of(keep: int, names: str | Sequence[str], values: Iterable[Any], **more: Any) -> pytest.MarkDecorator:
    """As `pytest.mark.parametrize`. The first `keep` of `values` are no slow ones."""
    single = len(names.split(",") if isinstance(names, str) else names) == 1
    cases = [_case(value, single) for value in values]
    later = [pytest.param(*case.values, marks=(*case.marks, pytest.mark.slow), id=case.id) for case in cases[keep:]]
    return pytest.mark.parametrize(names, [*cases[:keep], *later], **more)


def _case(value: Any, single: bool) -> Any:
    if hasattr(value, "marks"):  # pytest.param(…)
        return value
    return pytest.param(value) if single else pytest.param(*value)
