"""Every command in the documents: run against a fleet, or, where that takes long, held against what it names."""

import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from fleet.cli.app import app
from tests.documents.blocks import ROOT, Command, commands, mentioned
from tests.documents.conftest import Running
from tests.e2e.conftest import environment
from tests.support.waiting import WITHIN_S

ALL = commands()
HERE = {
    "fleet ask": "",
    "fleet submit": "release-3",
    "fleet watch": "completed",
    "fleet result": '"COMPLETED"',
    "fleet list": "release-3",
    "fleet report": "What it cost",
    "fleet top": "at work",
    "fleet deadletter": "",
    "fleet doctor": "ok",
    "fleet simulator": "A simulated vLLM server.",
}
"""Run against the fleet, in the documents' order, and what they print. Other verbs are held against the command line:
`up` has started this fleet, with a dispatcher and a collector; chaos and benchmarks run in tests of their own."""
FOR_A_CLIENT = {
    "deliberation.ask": '"status":"COMPLETED"',
    "deliberation.requested": '"stream":"DELIBERATION_REQUESTS"',
    "deliberation.result": '"status":"COMPLETED"',
    "deliberation.cancel": "Nats-Service-Error-Code: 409",
    "kv get": '"status":"COMPLETED"',
    "agents.prompt.council.fleet.default": '"type":"response"',
    "micro info": "deliberation.ask",
    "micro stats": "deliberations",
}
"""What `nats` prints, by a part of its command line."""
ENDLESS = {
    "kv watch": "deliberations > watched-kv",
    "sub deliberation.accepted": "watched-sub",
    "sub agent.response.progress": "watched-sub",
}
"""What it prints once a deliberation of that name has ended, if it goes on until it is stopped."""


def of(program: str) -> list[Command]:
    return [command for command in ALL if command.program == program]


def is_endless(command: Command) -> bool:
    return any(part in " ".join(command.words) for part in ENDLESS)


def test_every_command_is_known() -> None:
    """Each is of a kind that a test here, or of the examples, is about."""
    assert {command.program for command in ALL} <= {"fleet", "make", "python", "nats", "npm"}


@pytest.mark.parametrize("command", [*of("fleet"), *mentioned("fleet")], ids=str)
def test_the_command_line_takes_it(command: Command) -> None:
    """Verbs exist, options are theirs, values are of the right kind."""
    name, *words = command.words
    tool: Any = typer.main.get_command(app)
    while isinstance(tool, TyperGroup) and words:
        tool = tool.commands[words.pop(0)]
    if not isinstance(tool, TyperGroup) and "--help" not in words:
        known = {option for parameter in tool.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known
        if command in ALL:
            tool.make_context(name, words)


def test_fleet_commands_run_in_their_order(running: Running) -> None:
    """Those for a running fleet, all in one go: some name the task of an earlier one."""
    for command in of("fleet"):
        expected = HERE.get(" ".join(("fleet", command.words[1])))
        if expected is None:
            continue
        done = running.run("fleet", *command.words[1:])
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert expected in done.stdout, f"{command}\n{done.stdout}"


def test_nats_commands_run_in_their_order(running: Running, nats_command: str) -> None:
    """With the real `nats`; each prints what the document says."""
    for command in of("nats"):
        if is_endless(command):
            continue
        line = " ".join(command.words)
        (expected,) = (text for part, text in FOR_A_CLIENT.items() if f" {part} " in f"{line} ")
        done = running.run(nats_command, *command.words[1:])
        said = done.stdout + done.stderr
        assert (done.returncode, expected in said) == (0, True), f"{command}\n{said}"


@pytest.mark.parametrize("command", [command for command in of("nats") if is_endless(command)], ids=str)
def test_a_nats_command_that_goes_on_tells_what_happens(command: Command, running: Running, nats_command: str) -> None:
    """It is told of a deliberation that begins after it."""
    (expected,) = (text for part, text in ENDLESS.items() if part in " ".join(command.words))
    task_id = expected.split()[-1]
    watching = subprocess.Popen(
        [nats_command, *command.words[1:]], env=running.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert watching.stdout is not None
    said, asked, until = "", 0, time.monotonic() + WITHIN_S
    while expected not in said and time.monotonic() < until:
        # Whether it has subscribed cannot be seen: so a task each time that it was silent.
        if select.select([watching.stdout], [], [], 0.5)[0]:
            said += os.read(watching.stdout.fileno(), 65536).decode(errors="replace")
        else:
            asked += 1
            name = f"{task_id}-{command.words[-1].replace('.', '-')}-{asked}"
            assert running.run("fleet", "ask", "Say hello", "-n", "1", "--id", name).returncode == 0
    watching.terminate()
    watching.communicate(timeout=WITHIN_S)
    assert expected in said


@pytest.mark.parametrize("command", [*of("make"), *mentioned("make")], ids=str)
def test_make_has_the_target(command: Command) -> None:
    """And would run something for it."""
    target = command.words[1]
    assert re.search(rf"^([\w-]+ )*{re.escape(target)}( [\w-]+)*:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    dry = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (dry.returncode, bool(dry.stdout)) == (0, True), dry.stderr


@pytest.mark.parametrize("command", [*of("python"), *mentioned("python")], ids=str)
def test_python_commands_find_what_they_name(command: Command, tmp_path: Path) -> None:
    """pytest collects at least one test; the record of a release is written, elsewhere. Measurements are there."""
    flag, module, *arguments = command.words[1:]
    assert flag == "-m"
    if module == "tests.page.measure":  # minutes, in a browser
        assert importlib.util.find_spec(module) is not None
        return
    if module == "pytest":
        words = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    else:
        assert module == "tests.recorded.record"
        code = "from pathlib import Path; from tests.recorded.record import main; main('{}', Path('{}'))"
        words = [sys.executable, "-c", code.format(*arguments, tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if module != "pytest":
        assert json.loads((tmp_path / arguments[0] / "states.json").read_text())


@pytest.mark.slow
def test_the_demonstration_prints_what_the_readme_shows() -> None:
    """Apart from the figures, and from the text that the simulated model makes up."""
    wide = environment(COLUMNS="200")
    done = subprocess.run(["make", "demo"], cwd=ROOT, env=wide, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [_shape(line) for line in (done.stderr + done.stdout).splitlines()]
    shown = (ROOT / "README.md").read_text().split("$ make demo\n")[1].split("```")[0]
    for line in shown.splitlines():
        if line and not line.startswith(("…", "1. ", "[simulated]")):
            assert _shape(line) in said


def _shape(line: str) -> str:
    """Without figures, ids and the width of columns."""
    return re.sub(r"─+", "─", re.sub(r"\s+", " ", re.sub(r"ask-\w+|\d[\d.,]*", "0", line))).strip()
