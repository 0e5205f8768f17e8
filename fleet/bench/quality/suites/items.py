"""Defines what a suite is made of: tasks whose answers can be checked, or texts of which one is known to be better."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fleet.errors import ConfigError
from fleet.undecodable import why_undecodable


@dataclass(frozen=True, slots=True)
class Item:
    """One task. `candidates`: texts to judge; none: agents write their own. `check`: whether a text is right."""

    key: str
    text: str
    check: Callable[[str], bool]
    candidates: tuple[str, ...] = ()

    def solved_by(self, text: str) -> bool:
        """As a `Puzzle` says."""
        return self.check(text)


@dataclass(frozen=True, slots=True)
class Suite:
    """`sha256`: of the copy that was read; `left_out`: items that cannot be checked here."""

    name: str
    sha256: str
    items: Sequence[Item]
    left_out: int = 0

    @property
    def judges(self) -> bool:
        """Whether texts are given, and only judged."""
        return bool(self.items) and bool(self.items[0].candidates)


def rows_of(path: Path, known: Sequence[str] = (), also: str | None = None) -> tuple[str, list[dict[str, Any]]]:
    """The hash of a JSONL file, and its objects. Raises `ConfigError` for a copy whose hash is not `known`, nor `also`;
    where none is known any copy will do.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    found = hashlib.sha256(body).hexdigest()
    if known and found not in (*known, also):
        raise ConfigError(
            f"{path}: SHA-256 {found} is that of no known copy ({', '.join(known)}); --sha256 takes it nevertheless"
        )
    rows = []
    for number, line in enumerate(body.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = why_undecodable(error, line).replace("in line 1, column", "in column")
            raise ConfigError(f"{path}, line {number}: {why}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: no object")
        rows.append(row)
    return found, rows


def field(row: dict[str, Any], name: str, kind: type[Any], where: str) -> Any:
    """Raises `ConfigError` where it is missing, or of another type."""
    value = row.get(name)
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: {name} must be of type {kind.__name__}")
    return value
