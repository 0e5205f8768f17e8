"""Shows tables that are one line a row at any width: columns are left out, which a line below says, and texts cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from fleet.observability.visible import visible

BETWEEN, EDGES = 3, 2
"""What `box.SIMPLE_HEAD` takes between two columns, and at both ends together."""


@dataclass(frozen=True, slots=True)
class Column:
    """`least`: its texts may be cut to so many cells; None: to none. `leaves`: where there is no room for all, the
    columns with 1 are left out first, those with 0 never. `ends_differ`: its texts are cut in the middle.
    """

    name: str
    right: bool = False
    least: int | None = None
    leaves: int = 0
    ends_differ: bool = False


@dataclass(frozen=True, slots=True)
class FittingTable:
    """Of texts, or of (text, style). Room that is left goes to the column that lacks least, then to the next one."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | tuple[str, str]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        rows = [[(visible(text), style) for text, style in map(_styled, row)] for row in self.rows]
        whole = [
            max(map(cell_len, (column.name, *(row[at][0] for row in rows)))) for at, column in enumerate(self.columns)
        ]
        widths = _widths(self.columns, whole, options.max_width)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for at in widths:
            one = self.columns[at]
            table.add_column(one.name, justify="right" if one.right else "left", no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(
                *(Text(_cut(row[at][0], width, self.columns[at]), row[at][1]) for at, width in widths.items())
            )
        yield table
        if left_out := [column.name for at, column in enumerate(self.columns) if at not in widths]:
            yield Text(f" left out: {', '.join(left_out)} (a wider terminal, or --json, has them)", style="dim")


def _styled(cell: str | tuple[str, str]) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return " ".join(text.split()), style


def _widths(columns: Sequence[Column], whole: Sequence[int], room: int) -> dict[int, int]:
    """Number of each column that stays -> its width."""
    widths = {
        at: need if one.least is None else min(need, max(one.least, cell_len(one.name)))
        for at, (one, need) in enumerate(zip(columns, whole, strict=True))
    }

    def left() -> int:
        return room - EDGES - BETWEEN * (len(widths) - 1) - sum(widths.values())

    for at in sorted((at for at in widths if columns[at].leaves), key=lambda at: columns[at].leaves):
        if left() < 0:
            del widths[at]
    for at in sorted(widths, key=lambda at: whole[at] - widths[at]):
        widths[at] += max(0, min(whole[at] - widths[at], left()))
    return widths


def _cut(text: str, width: int, column: Column) -> str:
    if cell_len(text) <= width:
        return text
    if column.ends_differ and text.isascii():
        end = (width - 1) // 2
        return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"
    return f"{set_cell_size(text, width - 1).rstrip()}…"
