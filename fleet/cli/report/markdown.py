"""Renders a report as Markdown. What others wrote is escaped, or stands in a fence that it cannot close."""

import re
from collections.abc import Iterable, Sequence
from typing import assert_never

from fleet.cli.report.blocks import Block, Difference, Document, Folded, Grid, Items, Prose, Quote, Section
from fleet.observability.visible import visible

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_BACKTICKS = re.compile(r"`+")
_SIGNS = {"same": " ", "gone": "-", "new": "+", "left out": "@"}
_HARMLESS = re.compile(r"\\([,;'\"/%?()]|(?<=[^\W\d]\\)[.:](?=\s|$)|(?<=[^\W_]\\)-(?=[^\W_])|(?<=\d\\)[.:](?=\d))")
"""Escaped punctuation that means nothing where it stands: left as it is, for those who read the source."""


def render(document: Document) -> str:
    """The whole file."""
    lines = [f"# {text(document.title)}", "", *_blocks(document.lead, 2)]
    for section in document.sections:
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def text(plain: str) -> str:
    """One line that is shown as it is: no link, no image, no emphasis, no HTML."""
    line = " ".join(visible(plain).split())
    return _HARMLESS.sub(r"\1", _PUNCTUATION.sub(r"\\\1", line))


def _section(section: Section) -> Iterable[str]:
    yield f"{'#' * section.level} {text(section.title)}"
    yield ""
    yield from _blocks(section.blocks, section.level + 1)


def _blocks(blocks: Sequence[Block], level: int) -> Iterable[str]:
    for block in blocks:
        yield from _block(block, level)
        yield ""


def _block(block: Block, level: int) -> Iterable[str]:
    match block:
        case Prose(plain):
            yield text(plain)
        case Items(items):
            yield from (f"- {text(item)}" for item in items)
        case Grid(head, rows):
            yield _row(head)
            yield _row(["---"] * len(head), escaped=True)
            yield from map(_row, rows)
        case Quote(quoted):
            yield from _fenced(quoted, "text")
        case Difference(lines):
            yield from _fenced("\n".join(f"{_SIGNS[change]} {line}" for change, line in lines), "diff")
        case Folded(title, blocks):
            yield f"{'#' * min(level, 6)} {text(title)}"
            yield ""
            yield from _blocks(blocks, level + 1)
        case _:
            assert_never(block)


def _row(cells: Sequence[str], *, escaped: bool = False) -> str:
    return "| " + " | ".join(cell if escaped else text(cell) for cell in cells) + " |"


def _fenced(quoted: str, language: str) -> Iterable[str]:
    """In more backticks than stand together anywhere inside."""
    shown = visible(quoted)
    longest = max((len(run) for run in _BACKTICKS.findall(shown)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{language}"
    yield shown
    yield fence
