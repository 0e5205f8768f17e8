"""What commands tell people to type."""

from pathlib import Path

import pytest

from fleet.cli.output import own_name


def test_next_steps_name_the_program_as_it_can_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its bare name where that is on PATH, else by the path from here."""
    program = tmp_path / "bin" / "fleet"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(program), "up"])
    monkeypatch.setenv("PATH", str(program.parent))
    assert own_name() == "fleet"
    monkeypatch.setenv("PATH", "")
    assert own_name() == "bin/fleet"
