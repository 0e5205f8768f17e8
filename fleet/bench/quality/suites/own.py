"""Reads a suite of one's own, a JSONL file: tasks with an answer or a pattern, or texts of which one is better.

    {"id": "1", "prompt": "What is 6 × 7?", "answer": "42"}                the last line `Answer: …` must be this
    {"id": "2", "prompt": "Name a prime.", "pattern": "\\\\b(2|3|5|7)\\\\b"}     a regular expression must be found
    {"id": "3", "prompt": "Which is right?", "candidates": ["…", "…"], "best": 1}     judged only; 0 is the first

All items of a file are of one of the two kinds, written or judged.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from fleet.bench.quality.suites.items import Item, Suite, field, rows_of
from fleet.bench.quality.tasks import Puzzle
from fleet.errors import ConfigError


def load(path: Path) -> Suite:
    """Raises `ConfigError`."""
    sha256, rows = rows_of(path)
    items = [_item(row, f"{path}, item {number}", number) for number, row in enumerate(rows, start=1)]
    if len({bool(item.candidates) for item in items}) > 1:
        raise ConfigError(f"{path}: some items have candidates, and some have none")
    if len({item.key for item in items}) < len(items):
        raise ConfigError(f"{path}: an id stands twice")
    return Suite(path.stem, sha256, items)


def _item(row: dict[str, Any], where: str, number: int) -> Item:
    key, prompt = str(row.get("id", number)), field(row, "prompt", str, where)
    if "candidates" in row:
        candidates, best = field(row, "candidates", list, where), field(row, "best", int, where)
        if len({*map(str, candidates)}) < 2 or not 0 <= best < len(candidates):
            raise ConfigError(f"{where}: candidates must be two or more that differ, and best one of them")
        return Item(key, prompt, str(candidates[best]).__eq__, tuple(map(str, candidates)))
    if "pattern" in row:
        try:
            pattern = re.compile(field(row, "pattern", str, where))
        except re.error as error:
            raise ConfigError(f"{where}: pattern: {error}") from None
        return Item(key, prompt, partial(_found, pattern))
    puzzle = Puzzle("own", prompt, field(row, "answer", str, where), "")
    return Item(key, puzzle.text, puzzle.solved_by)


def _found(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text) is not None
