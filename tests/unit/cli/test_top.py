"""What `fleet top` shows first."""

import io

from rich.console import Console

from fleet.cli.doctor.fleet_state import FleetState
from fleet.cli.overview.top import picture
from fleet.client.listing import Summary

STATE = FleetState(
    instances=("a",), consumers=(), running=("early",), requests=0, oldest_s=0.0, dead_letters=0, workers=(), pool=None
)


def test_what_runs_stands_first_and_then_what_ended_last() -> None:
    """A screen that is too low cuts the oldest ones off."""
    summaries = [
        Summary(task_id="old", status="COMPLETED"),
        Summary(task_id="early", status="IN_PROGRESS"),
        Summary(task_id="new", status="COMPLETED"),
    ]
    screen = Console(file=io.StringIO(), width=160)
    screen.print(picture(STATE, summaries))
    text = screen.file.getvalue()
    assert sorted(("early ", "new ", "old "), key=text.index) == ["early ", "new ", "old "]
