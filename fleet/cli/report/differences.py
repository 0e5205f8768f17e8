"""Compares two texts line by line. Long lines are compared sentence by sentence: models write paragraphs."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from fleet.cli.report.blocks import Change, Difference

LONG_LINE = 120
CONTEXT = 2
"""Lines that are shown before and after each change."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def difference(before: str, after: str) -> Difference:
    """What is gone, what is new, and a little of what stays around it."""
    return Difference(tuple(_lines(_pieces(before), _pieces(after))))


def _lines(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[Change, str]]:
    blocks = SequenceMatcher(None, before, after).get_opcodes()
    for place, (tag, begin, end, new_begin, new_end) in enumerate(blocks):
        if tag == "equal":
            yield from _same(before[begin:end], first=place == 0, last=place == len(blocks) - 1)
            continue
        yield from (("gone", line) for line in before[begin:end])
        yield from (("new", line) for line in after[new_begin:new_end])


def _same(lines: Sequence[str], *, first: bool, last: bool) -> Iterator[tuple[Change, str]]:
    """What stays, but for what is far from any change."""
    head, tail = 0 if first else CONTEXT, 0 if last else CONTEXT
    left_out = len(lines) - head - tail
    if left_out <= 1:
        yield from (("same", line) for line in lines)
        return
    yield from (("same", line) for line in lines[:head])
    yield "left out", f"{left_out} unchanged lines"
    yield from (("same", line) for line in lines[len(lines) - tail :])


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    for line in text.splitlines():
        pieces += _SENTENCE_END.split(line) if len(line) > LONG_LINE else [line]
    return pieces
