"""Defines a finding of a command, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from fleet.cli.output import console

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`todo` says what to do about it; empty when nothing need be done."""

    verdict: Verdict
    what: str
    found: str
    todo: str = ""


def some(number: int, noun: str) -> str:
    """`2 messages`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def show(findings: list[Finding]) -> None:
    """As a table, for a person."""
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(finding.found)
        if finding.todo:
            text.append(f"\n→ {finding.todo}", style="dim")
        table.add_row(Text(finding.verdict, style=colours[finding.verdict]), Text(finding.what, style="bold"), text)
    console().print(table)
