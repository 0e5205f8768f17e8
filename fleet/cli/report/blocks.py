"""Defines what a report is made of: sections of blocks. Every string in them is plain text, whoever wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Quote:
    """A text as it was written, to the letter."""

    text: str


Change = Literal["same", "gone", "new", "left out"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of a text, line by line."""

    lines: Sequence[tuple[Change, str]]


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that one opens."""

    title: str
    blocks: Sequence["Block"]


Block = Prose | Items | Grid | Quote | Difference | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """`level`: 2 for a part of the report, 3 for a part of that."""

    title: str
    blocks: Sequence[Block]
    level: int = 2


@dataclass(frozen=True, slots=True)
class Document:
    """`lead`: what to know before anything else."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]
