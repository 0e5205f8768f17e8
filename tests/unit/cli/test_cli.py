"""What the command line says without any server: help, bad usage, and what can be told from here."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fleet import __version__, subjects
from fleet.cli import options
from fleet.cli.app import app
from fleet.cli.bench.scale import Part
from fleet.client.dead_letters import replayed_headers
from fleet.config import unconfigured
from fleet.errors import ConfigError
from fleet.jetstream.declaring.permissions import allowed, denied
from fleet.jetstream.rights import rights_of
from fleet.local.data_dir import (
    DEFAULT_DATA_DIR,
    client_settings,
    forget,
    locked,
    recall,
    remember,
    running,
    running_on,
)

COMMANDS = (
    *("up", "demo", "dispatcher", "collector"),
    *("ask", "submit", "watch", "result", "cancel"),
    *("status", "doctor", "chaos"),
)
GROUPS = tuple(["deadletter", name] for name in ("list", "show", "replay", "drop"))
NOWHERE = "nats://127.0.0.1:1"

runner = CliRunner()


def fleet(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The program as a user starts it."""
    environ = {
        name: value for name, value in os.environ.items() if name not in ("NATS_URL", "VLLM_URL", "FLEET_CONFIG")
    }
    return subprocess.run(
        [sys.executable, "-m", "fleet.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
    )


def test_help_lists_every_command() -> None:
    """`fleet --help` names each command."""
    shown = runner.invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in (*COMMANDS, "simulator", "deadletter"))


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), *GROUPS], ids=" ".join)
def test_every_help_page_has_an_example(command: list[str]) -> None:
    """Each command's page explains it and shows how it is used."""
    shown = runner.invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output


def test_every_option_is_explained() -> None:
    """No parameter of any command is without a sentence."""
    from typer.main import get_command

    pages = [get_command(app)]
    while pages:
        page = pages.pop()
        pages += getattr(page, "commands", {}).values()
        assert page.help, page.name
        assert not re.search(r"\n\n ", page.help), f"{page.name}: a paragraph begins with a space"
        for parameter in page.params:
            assert getattr(parameter, "help", None), f"{page.name} {parameter.name}"


def test_each_part_of_bench_scale_is_explained() -> None:
    """Its page says of every `--part` what it measures."""
    shown = runner.invoke(app, ["bench", "scale", "--help"])
    assert all(f"{part}: " in shown.output for part in Part)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["ask"],
        ["ask", "x", "--agents", "0"],
        ["ask", "x", "--agents", "17"],
        ["ask", "x", "--rounds", "6"],
        ["ask", "x", "--rubric", "correctness"],
        ["ask", "x", "--rubric", "correctness=much"],
        ["submit", "--file", "/no/such/file"],
        ["result"],
        ["result", "d-1", "--wait", "301"],
        ["deadletter", "show", "first"],
        ["up", "--nats-port", "70000"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    """Bad usage is status 2, and says so before anything is connected."""
    assert runner.invoke(app, arguments).exit_code == 2


def test_without_nats_exits_with_3_and_one_line(tmp_path: Path) -> None:
    """An unreachable server is one line that says what to do, and status 3."""
    done = fleet("ask", "anything", "--nats-url", NOWHERE, "--data-dir", str(tmp_path))
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert NOWHERE in line
    assert "fleet up" in line


def test_doctor_without_nats_exits_with_3_and_says_what_to_do(tmp_path: Path) -> None:
    """The first finding is the missing server."""
    done = fleet("doctor", "--json", "--nats-url", NOWHERE, "--data-dir", str(tmp_path))
    findings = json.loads(done.stdout)
    assert done.returncode == 3
    assert (findings[0]["what"], findings[0]["verdict"]) == ("NATS", "fail")
    assert "fleet up" in findings[0]["todo"]


def test_a_dispatcher_without_models_says_which_setting_is_missing() -> None:
    """A component that lacks a setting names it, with status 2."""
    done = fleet("dispatcher")
    assert done.returncode == 2
    assert "VLLM_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_does_not_import_the_heavy_libraries() -> None:
    """Ray and FastStream are imported by the commands that need them."""
    code = "import sys, fleet.cli.app; print([m for m in ('ray', 'faststream', 'nats', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_simulator_passes_its_options_on() -> None:
    """`fleet simulator --help` is the simulator's own page."""
    done = fleet("simulator", "--help")
    assert done.returncode == 0
    assert "--tokens-per-second" in done.stdout


def test_options_make_the_body_of_a_request() -> None:
    """Each option lands in its field; what is not given is absent."""
    body = options.request(
        "a task",
        role="QA",
        agents=4,
        timeout=9,
        rubric=["cost=2"],
        seed=7,
        all_rounds=True,
        correlation=["story=S-1"],
    )
    assert body == {
        "task_description": "a task",
        "role": "QA",
        "num_agents": 4,
        "constraints": {"rubric": {"cost": 2.0}, "timeout_seconds": 9},
        "options": {"seed": 7, "early_stop": False},
        "correlation": {"story": "S-1"},
    }
    assert options.request("a task") == {"task_description": "a task"}


def test_options_overlay_a_file(tmp_path: Path) -> None:
    """A request from a file keeps what no option changes."""
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"task_description": "from the file", "rounds": 2, "options": {"seed": 1}}))
    assert options.request(None, file=str(file), rounds=3) == {
        "task_description": "from the file",
        "rounds": 3,
        "options": {"seed": 1},
    }


def test_a_replayed_letter_keeps_the_originals_headers_only() -> None:
    """The dead letter's own headers go, and its number makes a second replay a duplicate."""
    headers = {"traceparent": "00-a-b-01", "Nats-Msg-Id": "old", "Dead-Letter-Reason": "why", "Dead-Letter-Stream": "S"}
    assert replayed_headers(headers, 3) == {"traceparent": "00-a-b-01", "Nats-Msg-Id": "replay.3"}


def test_a_locked_data_directory_refuses_a_second_fleet(tmp_path: Path) -> None:
    """The error names the process that has it."""
    with locked(tmp_path), pytest.raises(ConfigError, match=str(os.getpid())), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_clients_find_the_fleet_of_their_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said wins over what is remembered, and that over the default."""
    monkeypatch.delenv("NATS_URL", raising=False)
    assert client_settings(tmp_path).nats == "nats://127.0.0.1:4222"
    remember(tmp_path, {"nats_url": "nats://127.0.0.1:4711"})
    assert recall(tmp_path) == {"nats_url": "nats://127.0.0.1:4711"}
    assert client_settings(tmp_path).nats == "nats://127.0.0.1:4711"
    assert client_settings(tmp_path, "nats://elsewhere:4222").nats == "nats://elsewhere:4222"


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.b.c", "a.b", False),
        ("a.*", "a.*", True),
        ("a.b", "a.*", False),
        ("a.>", "a.*", True),
        ("a.*", "a.>", False),
        ("a.>", "a.b.>", True),
    ],
)
def test_subject_patterns_match_as_in_nats(pattern: str, subject: str, expected: bool) -> None:
    """`*` is one token, `>` one or more; of another pattern all that it covers must be covered."""
    assert subjects.covers(pattern, subject) is expected


def test_permissions_without_rules_allow_everything() -> None:
    """A deny rule wins over an allow rule; no rules at all allow."""
    assert allowed(None, "a")
    assert allowed({"allow": ["a.>"]}, "a.b")
    assert not allowed({"allow": ["b"]}, "a")
    assert not allowed({"allow": ["a.>"], "deny": ["a.b"]}, "a.b")
    assert allowed({"allow": ["a.b queue"]}, "a.b")


def test_a_missing_right_is_named_for_the_component_that_needs_it() -> None:
    """What `permissions.conf` gives is enough; without one of its lines just that one is missing."""
    of_control, of_worker = rights_of("control"), rights_of("worker")
    granted = {"publish": {"allow": sorted(of_control.publish)}, "subscribe": {"allow": sorted(of_control.subscribe)}}
    assert denied(granted)["control"] == []
    assert f"subscribe {subjects.AGENT_STOP}" in denied(granted)["worker"]
    fewer = {"publish": {"allow": sorted(of_worker.publish - {subjects.AGENT_PROGRESS})}}
    assert denied(fewer)["worker"] == [f"publish {subjects.AGENT_PROGRESS}"]


def test_options_of_the_request_are_taken_as_json_or_text() -> None:
    """`-o` carries any of them; lists may be written with commas, and what has an option of its own goes, too."""
    given = ["seed=7", "early_stop=false", "roles=DEV,QA", "selection=vote", 'output_schema={"type": "object"}']
    body = options.request("x", option=given, seed=9)
    assert body["options"] == {
        "seed": 9,
        "early_stop": False,
        "roles": ["DEV", "QA"],
        "selection": "vote",
        "output_schema": {"type": "object"},
    }


def test_commands_find_the_fleet_that_runs_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a note for its user alone, without addresses; of several the one on the port that clients expect."""
    for name in ("NATS_URL", "FLEET_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    mine, other, gone = (tmp_path / name for name in ("mine", "other", "gone"))
    for directory, pid, port in ((mine, os.getpid(), 4711), (other, os.getppid(), 4712), (gone, 2**22 + 1, 4222)):
        directory.mkdir()
        remember(directory, {"nats_url": f"nats://u:secret@127.0.0.1:{port}", "supervisor": pid})
    notes = sorted((tmp_path / "user" / "deliberation-fleet").iterdir())
    assert {note.stat().st_mode & 0o777 for note in notes} == {0o600}
    assert not any("secret" in note.read_text() for note in notes)
    with pytest.raises(ConfigError, match="--data-dir"):
        client_settings(DEFAULT_DATA_DIR)
    remember(other, {"nats_url": "nats://127.0.0.1:4222", "supervisor": os.getppid()})
    assert client_settings(DEFAULT_DATA_DIR).nats == "nats://127.0.0.1:4222"
    (other / "fleet.json").unlink()
    assert client_settings(DEFAULT_DATA_DIR).nats == "nats://u:secret@127.0.0.1:4711"
    assert client_settings(DEFAULT_DATA_DIR, "nats://elsewhere:1").nats == "nats://elsewhere:1"
    remember(other, {"nats_url": "nats://127.0.0.1:4712", "vllm_url": "http://other"})
    assert running_on("nats://127.0.0.1:4712", DEFAULT_DATA_DIR)["vllm_url"] == "http://other"
    assert running_on("nats://elsewhere:1", DEFAULT_DATA_DIR) == {}
    (other / "fleet.json").unlink()
    forget(mine)
    assert running(DEFAULT_DATA_DIR) == {}


def test_a_text_is_read_from_a_file_or_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the task, if both are given; a JSON object is a request."""
    text = tmp_path / "task.md"
    text.write_text("# A design\n\nWith *words*.\n")
    assert options.request(file=str(text)) == {"task_description": "# A design\n\nWith *words*."}
    assert (
        options.request("Review it", file=str(text))["task_description"] == "Review it\n\n# A design\n\nWith *words*."
    )
    request = tmp_path / "request.json"
    request.write_text('{"task_description": "in the file", "rounds": 2}')
    assert options.request("instead", file=str(request)) == {"task_description": "instead", "rounds": 2}
    for given, body in (
        ("a task\n", {"task_description": "a task"}),
        ('{"task_description": "x"}', {"task_description": "x"}),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        assert options.request("-") == body


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"{broken", b'{"rounds": 1}'])
def test_what_is_no_task_is_refused(content: bytes, tmp_path: Path) -> None:
    """With a sentence, and before anything is connected."""
    file = tmp_path / "task"
    file.write_bytes(content)
    with pytest.raises(typer.BadParameter):
        options.request(file=str(file))


def test_an_argument_that_is_no_text_and_a_terminal_that_cannot_show_it(tmp_path: Path) -> None:
    """No traceback for either."""
    environ = {**unconfigured(os.environ), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable.encode(), b"-m", b"fleet.cli", b"ask"]
    done = subprocess.run([*command, b"\xff"], capture_output=True, env=environ, timeout=60)
    assert (done.returncode, done.stderr) == (2, b"fleet: this argument is no UTF-8 text: \\xff\n")
    arguments = [b"--nats-url", NOWHERE.encode(), b"--data-dir", os.fsencode(tmp_path / "…")]
    done = subprocess.run([*command, "→".encode(), *arguments], capture_output=True, env=environ, timeout=60)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr


def test_version_is_told() -> None:
    """As everybody expects."""
    assert runner.invoke(app, ["--version"]).output == f"fleet {__version__}\n"


WITHOUT_JSON = {"simulator", "mcp"}
"""A foreign server's own options; and a protocol on standard output."""


def test_every_command_takes_json() -> None:
    """Wherever a program might read the output."""

    def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, f"{path}{name} ")
            else:
                yield f"{path}{name}", command

    found = dict(commands(typer.main.get_command(app)))
    takes = {name for name, command in found.items() if any("--json" in option.opts for option in command.params)}
    assert found.keys() - takes == WITHOUT_JSON
