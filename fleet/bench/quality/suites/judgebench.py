"""Reads JudgeBench (Tan et al. 2024, arXiv:2410.12784): pairs of answers of which one is objectively right."""

from pathlib import Path

from fleet.bench.quality.suites.items import Item, Suite, field, rows_of
from fleet.errors import ConfigError

KNOWN = (
    "d5106306b38dead1b2e964ecf5534a3e7b2fc4b8d3b8da327599edfcebd76042",
    "3b70504588e400613bf5744a20a345da8701b7150be9a30c9db0e6f3d7b70a62",
)
"""`data/dataset=judgebench,response_model=….jsonl` of ScalerLab/JudgeBench: 350 pairs of GPT-4o, 270 of Claude."""
_LABELS = {"A>B": "response_A", "B>A": "response_B"}


def load(path: Path, also: str | None = None) -> Suite:
    """Raises `ConfigError`. Pairs of equal texts are left out: nothing could tell them apart."""
    sha256, rows = rows_of(path, KNOWN, also)
    items, left_out = [], 0
    for number, row in enumerate(rows, start=1):
        where = f"{path}, item {number}"
        question = field(row, "question", str, where)
        pair = field(row, "response_A", str, where), field(row, "response_B", str, where)
        better = _LABELS.get(str(row.get("label")))
        if better is None:
            raise ConfigError(f"{where}: label must be one of {', '.join(_LABELS)}")
        if " ".join(pair[0].split()) == " ".join(pair[1].split()):
            left_out += 1
            continue
        items.append(Item(str(row.get("pair_id", number)), question, row[better].__eq__, pair))
    return Suite("judgebench", sha256, items, left_out)
