"""Runs `fleet demo`: starts a fleet, shows one deliberation, and stops the fleet again."""

import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fleet import config
from fleet.cli import options
from fleet.cli.output import console, own_name
from fleet.config import without_userinfo
from fleet.exits import Exit
from fleet.local.signals import run_until_signalled

if TYPE_CHECKING:
    from fleet.local.fleet import LocalFleet

DEMO_TASK = "Design a rate limiter for the public REST API: thousands of clients, no single point of failure."
DEMO_PACE = ("--latency-ms", "150", "--tokens-per-second", "80", "--answer-tokens", "120")
"""Slow enough to be watched."""
LOCAL_MODEL_AGENTS = 2
"""Without rounds, if none are asked for: on a busy CPU four calls are what there is time for."""
LOCAL_MODEL_WITHIN_S = 120.0
"""With start and stop that is less than three minutes. What is not written by then is missing, and said to be."""

SIMULATED = (
    "The answers are simulated: a built-in server makes them up. They show how the fleet works, not what a model "
    "would say. Set VLLM_URL for real ones."
)
LOCAL_MODEL = (
    "The answers come from a 135M-parameter model on this machine's CPU: "
    "it proves the plumbing, not the quality of judgement. Answers are kept short."
)


def demo(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to deliberate on.", show_default=False)] = DEMO_TASK,
    role: options.Role = None,
    agents: options.Agents = None,
    rounds: options.Rounds = None,
    timeout: options.Timeout = None,
    local_model: Annotated[
        bool, typer.Option("--local-model", help="Ask a real, very small model on this machine's CPU.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Keep the data there. Default: a temporary directory."),
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Start a fleet, watch one deliberation from the first proposal to the winner, and stop it again.

    Needs nothing but this package: without VLLM_URL the answers are simulated,
    and the demo says so.

    [dim]Example:[/dim]  fleet demo "Design an outbox for our payment service" --role ARCHITECT --agents 4
    """
    from fleet.local.fleet import LocalFleet
    from fleet.observability.logs import configure_logging

    configure_logging("demo", level="warning")
    settings = config.load(os.environ)
    if local_model:
        body = options.request(
            task,
            role=role,
            agents=agents or LOCAL_MODEL_AGENTS,
            rounds=rounds or 0,
            timeout=timeout or LOCAL_MODEL_WITHIN_S,
            option=["accept_truncated=true"],  # it comes to no end by itself
        )
    else:
        body = options.request(task, role=role, agents=agents, rounds=rounds, timeout=timeout)
    kept = nullcontext(str(data_dir)) if data_dir else tempfile.TemporaryDirectory(prefix="fleet-demo-")
    with kept as directory:
        fleet = LocalFleet(
            settings,
            Path(directory),
            joins=config.names_fleet(os.environ),
            local_model=local_model,
            simulator=DEMO_PACE,
            quiet=True,
        )
        status = run_until_signalled(_deliberate_once(fleet, body, json_output), at_once=fleet.kill)
    raise typer.Exit(Exit.INTERRUPTED if status is None else status)


async def _deliberate_once(fleet: "LocalFleet", body: dict[str, object], json_output: bool) -> int:
    from fleet.cli.client import deliberate

    screen = console(stderr=True)
    note = {"simulated": SIMULATED, "local": LOCAL_MODEL}.get(
        fleet.model, f"The answers come from {without_userinfo(fleet.vllm_url)}."
    )
    screen.print(f"[bold]Task:[/bold] {escape(str(body['task_description']))}", highlight=False)
    with screen.status("starting a fleet …") if screen.is_terminal else nullcontext():
        await fleet.__aenter__()
    try:
        status = await deliberate(fleet.settings, body, json_output=json_output)
        screen.print(note, style="yellow" if fleet.model != "given" else "dim", highlight=False)
        return status
    finally:
        with screen.status("stopping …") if screen.is_terminal else nullcontext():
            await fleet.__aexit__(None, None, None)
        sys.stdout.flush()
        for line in _next_steps(fleet.model):
            screen.print(line, highlight=False, soft_wrap=True)


def _next_steps(model: str) -> list[str]:
    """What somebody may want who has seen the demonstration."""
    name = own_name()
    steps = [
        "\nNext, in one terminal:",
        *_commands(f"{name} up"),
        "and in another one:",
        *_commands(f'{name} ask "Your own question"', f"{name} ask --file design.md --role ARCHITECT"),
    ]
    if model != "given":
        steps += ["With your own models, start it by:", *_commands(f"VLLM_URL=http://your-model-server:8000 {name} up")]
    return steps


def _commands(*lines: str) -> list[str]:
    return [f"  [cyan]{escape(line)}[/cyan]" for line in lines]
