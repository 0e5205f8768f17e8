"""Defines options that several commands share, and builds the request from them."""

import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.jetstream.lifetimes import LONGEST_DELIBERATION_S
from fleet.local.data_dir import DEFAULT_DATA_DIR
from fleet.undecodable import why_undecodable

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where the fleet of this machine keeps its data. Commands find a running one."
    ),
]
NatsUrl = Annotated[
    str | None,
    typer.Option(
        "--nats-url",
        envvar="NATS_URL",
        metavar="URL",
        help="The NATS server. Default: that of the fleet that runs on this machine, else nats://127.0.0.1:4222.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]
Task = Annotated[str, typer.Argument(metavar="TASK", help="What to deliberate on, in plain words.")]
MaybeTask = Annotated[
    str | None,
    typer.Argument(metavar="TASK", help="What to deliberate on, in plain words; - is standard input."),
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id, as `fleet submit` printed it.")]
Older = Annotated[bool, typer.Option("--older", help="Look through all events, not the newest 10,000 alone.")]
Role = Annotated[
    str | None,
    typer.Option(
        "--role", metavar="ROLE", help="Role that every agent takes: DEV (default), QA, ARCHITECT, DEVOPS, DATA …"
    ),
]
Agents = Annotated[int | None, typer.Option("--agents", "-n", min=1, max=16, help="How many agents. Default: 3.")]
Rounds = Annotated[
    int | None, typer.Option("--rounds", "-r", min=0, max=5, help="Rounds of review and revision. Default: 1.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=1, max=LONGEST_DELIBERATION_S, metavar="SECONDS", help="Deadline of the whole. Default: 300."
    ),
]
GivenId = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="Name the task yourself: the same task twice is run once.")
]
Rubric = Annotated[
    list[str] | None,
    typer.Option("--rubric", metavar="NAME=WEIGHT", help="A criterion to score by, and its weight. Repeatable."),
]
Requirement = Annotated[
    list[str] | None, typer.Option("--require", metavar="TEXT", help="Something the answer must do. Repeatable.")
]
Correlation = Annotated[
    list[str] | None,
    typer.Option("--correlation", metavar="KEY=VALUE", help="Echoed in every event of the task. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes shuffles, and the model's sampling, reproducible.")]
AllRounds = Annotated[bool, typer.Option("--all-rounds", help="Run every round, even when the leader is clear.")]
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="MODE",
        help="use: take the result of the same question, if there is one; refresh: replace it; off (default).",
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="NAME=VALUE",
        help="One of the request's options, selection=vote or roles=DEV,QA (all are in subjects.md). Repeatable.",
    ),
]
File = Annotated[
    str | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A text to deliberate on (after TASK), or a request as a JSON object.",
    ),
]

DATA_DIR = DEFAULT_DATA_DIR


def request(
    task: MaybeTask = None,
    role: Role = None,
    agents: Agents = None,
    rounds: Rounds = None,
    timeout: Timeout = None,
    rubric: Rubric = None,
    require: Requirement = None,
    seed: Seed = None,
    all_rounds: AllRounds = False,
    cache: Cache = None,
    option: Option = None,
    correlation: Correlation = None,
    task_id: GivenId = None,
    file: File = None,
) -> dict[str, Any]:
    """The body of `deliberation.requested`: the file's, overlaid with what the options say. Raises `BadParameter`."""
    if task == "-":
        task, file = None, "-"
    body = _read(file, task) if file else {}
    if task != "":
        body.setdefault("task_description", task)
    _put(body, task_id=task_id, role=role, num_agents=agents, rounds=rounds)
    if body.get("task_description") in (None, ""):
        raise typer.BadParameter("say what to deliberate on: a TASK, - for standard input, or --file")
    weights = {name: _weight(weight) for name, weight in _pairs("--rubric", rubric).items()} or None
    _put(
        _table(body, "constraints"),
        rubric=weights,
        requirements=require or None,
        timeout_seconds=timeout,
    )
    values = {name: _value(name, text) for name, text in _pairs("--option", option).items()}
    _put(_table(body, "options"), **values)
    _put(_table(body, "options"), seed=seed, early_stop=False if all_rounds else None, cache=cache)
    _put(_table(body, "correlation"), **_pairs("--correlation", correlation))
    return {name: value for name, value in body.items() if value != {}}


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command with all of `request`'s options before its own, and the request as its first argument."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = list(inspect.signature(request).parameters.values())

    @functools.wraps(command)
    def run(**values: Any) -> None:
        body = request(**{each.name: values.pop(each.name) for each in shared})
        command(body, **values)

    run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*shared, *own)}
    return run


_LISTS = ("roles", "models")


def _value(name: str, text: str) -> Any:
    """`true`, `3` and `{…}` are JSON, anything else is a text, and a list may be written with commas."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.startswith(("{", "[", '"')):
            raise typer.BadParameter(f"--option {name}: {why_undecodable(error, text)}") from None
        value = text
    return value.split(",") if name in _LISTS and isinstance(value, str) else value


def _put(table: dict[str, Any], /, **values: Any) -> None:
    table.update({name: value for name, value in values.items() if value is not None})


def _table(body: dict[str, Any], name: str) -> dict[str, Any]:
    table = body.setdefault(name, {})
    # What is no object is the file's mistake; the check of the request names it.
    return table if isinstance(table, dict) else {}


def _read(file: str, task: str | None) -> dict[str, Any]:
    """A JSON object is a request, whose task `task` replaces; any other text is what to deliberate on, after `task`."""
    name = "standard input" if file == "-" else file
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{name} is {why_undecodable(error, data)}") from None
    if not text.strip():
        raise typer.BadParameter(f"{name} is empty")
    if not (text.lstrip().startswith("{") or file.endswith(".json")):
        return {"task_description": "\n\n".join(filter(None, (task, text.strip())))}
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{name} looks like a request, but it is {why_undecodable(error, text)}") from None
    if not isinstance(body, dict):
        raise typer.BadParameter(f"{name}: expected a JSON object, the body of deliberation.requested")
    return {**body, "task_description": task} if task else body


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in values or [])
    if not all(name and value for name, value in pairs.items()):
        raise typer.BadParameter(f"{option}: expected NAME=VALUE")
    return pairs


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--rubric: {text!r} is no number") from None
