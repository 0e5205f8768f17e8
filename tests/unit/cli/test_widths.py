"""Tables at the widths of terminals: one line a row, nothing broken, and everything where there is room."""

import io
import re
from datetime import UTC, datetime

import pytest
from rich.console import RenderableType

from fleet.bench.report import Figure, Report, Table
from fleet.cli.output import NOT_CUT, PeopleConsole
from fleet.cli.overview.fitting import Column, FittingTable
from fleet.cli.overview.listing import table
from fleet.client.listing import Summary

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "a-rather-long-id-of-a-task-that-a-service-has-made"
LISTED = [
    Summary(
        task_id=f"{ID}-{number}",
        status="IN_PROGRESS",
        task_description="Design a rate limiter for the public REST API of a payment service",
        accepted_at="2025-12-31T23:59:00.000Z",
        phase="critique",
        round=1,
        done=number,
        expected=3,
        tokens=12_345,
    )
    for number in range(3)
]
REPORT = Report(
    "quality",
    {
        "best_wins_vs_best_aggregator_realistic": Figure(
            0.65, 0.6, 0.03, of="the truly best proposal wins, with realistic judges; baseline: the mean"
        ),
        "ready_s": Figure(3.2, of="`fleet up` until it is ready"),
    },
    tables=(
        Table(
            "stored",
            "Beside so many stored deliberations",
            (
                "stored",
                "cpu_ms_each",
                "tokens_per_second",
                "waiting_for_models",
                "bytes_per_second",
                "heard_per_second",
            ),
            [["two deliberations that wait for a model", 1_234_567.0, 98_765.0, 1_000.0, 2_000.0, 3_000.0]],
        ),
    ),
)


def shown(what: RenderableType, width: int) -> list[str]:
    out = io.StringIO()
    PeopleConsole(file=out, width=width, emoji=False).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_list_is_one_line_for_each_deliberation(width: int) -> None:
    """Its end tells a long id from its like, and how far it is can be read."""
    lines = shown(table(LISTED, NOW), width)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "IN_PROGRESS" in line]
    assert len(rows) == len(LISTED)
    assert "12-31 23:59" in rows[0] or "01-01 " in rows[0]  # wherever this machine is
    for number, row in enumerate(rows):
        assert re.search(rf"made-{number} +IN_PROGRESS", row)
        assert f"critique 1: {number}" in row
        assert "Design a rate" in row


def test_list_is_whole_where_nobody_sees_how_wide_it_is() -> None:
    """For `grep` and `awk`."""
    row = next(line for line in shown(table(LISTED, NOW), NOT_CUT) if f"{ID}-1" in line)
    assert "…" not in row
    assert "12,345" in row
    assert row.endswith("of a payment service")


def test_columns_leave_in_their_order_and_come_back() -> None:
    """What matters least goes first; room that is left shows more of the first text that was cut."""
    columns = (Column("name", least=6), Column("more", leaves=2), Column("least", leaves=1), Column("text", least=8))
    rows = [("a long name", "12345", "67890", ("one text of some words", "red"))]
    assert shown(FittingTable(columns, rows), 60)[3].split("   ") == [
        " a long name",
        "12345",
        "67890",
        "one text of some words",
    ]
    assert shown(FittingTable(columns, rows), 32)[3].split("   ") == [" a long name", "12345", "one tex…"]
    assert shown(FittingTable(columns, rows), 20)[3].split("   ") == [" a long…", "one tex…"]


@pytest.mark.parametrize(("width", "left_out"), [(80, "took, tokens, cost"), (120, ""), (NOT_CUT, "")])
def test_what_is_left_out_is_said(width: int, left_out: str) -> None:
    """Nobody takes what is not there for what is not known."""
    lines = shown(table(LISTED, NOW), width)
    heads = {"task", "status", "since", "took", "tokens", "cost", "outcome", "question"}
    assert set(lines[1].split()) == heads - set(left_out.split(", "))
    assert [line.strip() for line in lines if "left out" in line] == (
        [f"left out: {left_out} (a wider terminal, or --json, has them)"] if left_out else []
    )


@pytest.mark.parametrize("width", [80, 120])
def test_benchmarks_break_no_number(width: int) -> None:
    """Where a table has no room each figure has lines of its own, and words of headings stand below each other."""
    out = io.StringIO()
    REPORT.show(PeopleConsole(file=out, width=width, emoji=False))
    text = out.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for whole in ("best_wins_vs_best_aggregator_realistic", "0.650", "1.083", "1.025 … 1.142", "1,234,567", "98,765"):
        assert whole in text
    assert "the truly best proposal wins, with" in text


def test_benchmarks_are_tables_where_there_is_room() -> None:
    """One line for each figure."""
    out = io.StringIO()
    REPORT.show(PeopleConsole(file=out, width=NOT_CUT, emoji=False))
    line = next(line for line in out.getvalue().splitlines() if line.startswith("best_wins"))
    assert re.search(r"0\.650 +0\.600 +1\.083 +1\.025 … 1\.142 +the truly best .* the mean", line)
