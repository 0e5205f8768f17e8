"""Runs the commands that start the whole fleet, or one component."""

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet import config
from fleet.cli import options
from fleet.cli.output import console, own_name, print_json, say
from fleet.config import Settings, without_userinfo
from fleet.errors import ConfigError
from fleet.event_loop import fast_loop
from fleet.local.signals import run_until_signalled

if TYPE_CHECKING:
    from rich.console import Console

    from fleet.local.fleet import LocalFleet

ASKED_WITHIN_S = 10.0
WATCHABLE_PACE = 40
"""Tokens per second at which a person can follow a simulated council."""

NatsPort = Annotated[
    int | None,
    typer.Option(
        "--nats-port", min=1, max=65535, help="Port of the embedded nats-server. Default: 4222 or a free one."
    ),
]

TokensPerSecond = Annotated[
    float | None,
    typer.Option(
        "--tokens-per-second",
        min=0.1,
        metavar="N",
        help=f"How fast the simulated model writes each answer; at {WATCHABLE_PACE} a council can be watched. "
        "Default: at once.",
    ),
]


def up(
    data_dir: options.DataDir = options.DATA_DIR,
    nats_port: NatsPort = None,
    tokens_per_second: TokensPerSecond = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Logs on standard error, instead of in DIR/logs.")
    ] = False,
    json_output: options.Json = False,
) -> None:
    """Start everything on this machine, and keep it running.

    Only what is not given is started: a nats-server unless NATS_URL is set, Ray
    unless RAY_ADDRESS is, a simulated vLLM unless VLLM_URL is. A component that
    dies is started again. Ctrl-C ends it all. Logs are in DIR/logs; with -v or
    --json those of the components are on standard error.

    [dim]Example:[/dim]  VLLM_URL=http://gpu-1:8000,http://gpu-2:8000 fleet up
    [dim]Or:[/dim]       fleet up --tokens-per-second 40
    """
    from fleet.local.fleet import LocalFleet
    from fleet.observability.logs import configure_logging

    aloud = verbose or json_output
    configure_logging("supervisor", level="info" if aloud else "warning")
    settings = config.load(os.environ)
    fleet = LocalFleet(
        settings,
        data_dir,
        nats_port=nats_port,
        default_port=True,
        page=True,
        joins=config.names_fleet(os.environ),
        simulator=pace(settings, tokens_per_second),
        quiet=not aloud,
    )
    run_until_signalled(_stay_up(fleet, json_output, paced=tokens_per_second is not None), at_once=fleet.kill)


def pace(settings: Settings, tokens_per_second: float | None) -> tuple[str, ...]:
    """The simulator's arguments. Raises `BadParameter` where no model is simulated."""
    if tokens_per_second is None:
        return ()
    if settings.agent_type != "mock":
        raise typer.BadParameter(
            f"--tokens-per-second is for the simulated model, and {models_from(settings)} names real ones"
        )
    return ("--tokens-per-second", str(tokens_per_second))


def dispatcher(json_output: options.Json = False) -> None:
    """Run one dispatcher: takes requests, launches and sizes the pool of workers on Ray.

    For deployments: any number of them may run. Set NATS_URL, RAY_ADDRESS and
    VLLM_URL; `fleet up` does this for one machine. Prints one line of JSON when
    it is ready, logs to standard error, drains on SIGTERM. With --json logs are
    JSON, too, as they are wherever standard error is no terminal.

    [dim]Example:[/dim]  NATS_URL=nats://nats:4222 RAY_ADDRESS=ray-head:6379 VLLM_URL=http://vllm:8000 fleet dispatcher
    """
    settings = _component("dispatcher", json_output)
    if not settings.model_servers:
        raise ConfigError(
            "VLLM_URL is not set (and the file has no [endpoints.NAME]), and a dispatcher starts no model server: "
            "set it, run `fleet simulator`, or use `fleet up`"
        )
    from fleet.control import dispatcher as component
    from fleet.local.launcher import LauncherProcess

    running = component.run(settings, LauncherProcess(settings.workers), on_ready=lambda: _ready("dispatcher"))
    run_until_signalled(running, loop_factory=fast_loop)


def collector(json_output: options.Json = False) -> None:
    """Run one collector: folds the workers' answers into results, and keeps the deadlines.

    For deployments: any number of them may run. Set NATS_URL. Prints one line
    of JSON when it is ready, logs to standard error, drains on SIGTERM. With
    --json logs are JSON, too, as they are wherever standard error is no terminal.

    [dim]Example:[/dim]  NATS_URL=nats://nats:4222 fleet collector
    """
    settings = _component("collector", json_output)
    from fleet.control import collector as component

    run_until_signalled(component.run(settings, on_ready=lambda: _ready("collector")), loop_factory=fast_loop)


def simulator(context: typer.Context) -> None:
    """Run the simulated vLLM server alone; it prints its URL. `fleet simulator --help` lists its settings."""
    from workers.simulator import server

    server.main(context.args)


def _component(name: str, json_output: bool) -> Settings:
    from setproctitle import setproctitle

    from fleet.observability.logs import configure_logging

    setproctitle(f"fleet-{name}")
    configure_logging(name, json=True if json_output else None)
    return config.load(os.environ)


def _ready(component: str) -> None:
    print_json({"ready": True, "component": component})


async def _stay_up(fleet: "LocalFleet", json_output: bool, *, paced: bool) -> None:
    screen = console(stderr=json_output)
    with screen.status("starting NATS, Ray and the model server …") if screen.is_terminal else nullcontext():
        await fleet.__aenter__()
    try:
        silent = await _silent_servers(fleet)
        if json_output:
            print_json(fleet.facts())
        else:
            _say_where(screen, fleet)
            if fleet.model == "simulated" and not paced:
                say(f"\nSimulated answers come at once. To watch a council at work:\n  {slower(fleet.data_dir)}")
        for each in silent:
            say(each, stderr=True)
        await fleet.defect()
    finally:
        if not json_output:
            screen.print(
                "\nStopping: what is in flight is finished or handed back … (again to end at once)", highlight=False
            )
        await fleet.__aexit__(None, None, None)


async def _silent_servers(fleet: "LocalFleet") -> list[str]:
    """Each model server is asked once: a sentence for each that does not answer."""
    from workers.llm.servers import probe

    if fleet.model != "given":
        return []
    results = await probe.ask_all(fleet.settings, ASKED_WITHIN_S)
    return [
        f"\nThe model server {each.name} does not answer a call: {each.error}\n"
        "The fleet is up all the same, and calls wait for it until their deadlines; `fleet doctor` asks again."
        for each in results
        if each.error
    ]


def models_from(settings: Settings) -> str:
    """The settings that name the model servers."""
    sources = (("VLLM_URL", settings.vllm_urls), ("FLEET_CONFIG", settings.endpoints))
    return " and ".join(name for name, servers in sources if servers)


def slower(data_dir: Path) -> str:
    """The command that starts this fleet with a simulated model that can be watched."""
    return f"{own_name()} up{_elsewhere(data_dir)} --tokens-per-second {WATCHABLE_PACE}"


def _elsewhere(data_dir: Path) -> str:
    """How commands find it."""
    return "" if data_dir == options.DATA_DIR else f" --data-dir {shlex.quote(str(data_dir))}"


def _say_where(screen: "Console", fleet: "LocalFleet") -> None:
    from rich.table import Table

    models = {
        "given": f"given by {models_from(fleet.settings)}",
        "simulated": "simulated answers; set VLLM_URL for real ones",
    }
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_column(style="dim")
    table.add_row(
        "  NATS",
        without_userinfo(fleet.nats_url),
        f"embedded, pid {fleet.nats.pid}" if fleet.nats else "given by NATS_URL",
    )
    table.add_row("  vLLM", without_userinfo(fleet.vllm_url), models.get(fleet.model, ""))
    ray = "local" if fleet.ray_is_local else "given by RAY_ADDRESS"
    table.add_row("  Ray", fleet.settings.ray_address or "", ray)
    for name, pid in fleet.pids.items():
        health = f"health on port {fleet.health_ports[name]}" if fleet.health_ports else ""
        table.add_row(f"  {name}", f"pid {pid}", health)
    if fleet.page:
        table.add_row("  page", fleet.page.url, "open it in a browser")
    table.add_row("  data", str(fleet.data_dir.absolute()), "survives restarts")
    table.add_row("  logs", str(fleet.logs.absolute()), "one file each; `fleet up -v` shows them here")
    elsewhere = _elsewhere(fleet.data_dir)
    screen.print("[bold green]The fleet is up.[/bold green] Ctrl-C stops it.\n")
    screen.print(table)
    screen.print("\nTry, in another terminal:")
    name = own_name()
    for command in (
        f'{name} ask{elsewhere} "Design a rate limiter for the public REST API"',
        f"{name} watch{elsewhere}",
        f"{name} doctor{elsewhere}",
        f"nats --server {without_userinfo(fleet.nats_url)} kv watch deliberations",
    ):
        screen.print(f"  [cyan]{command}[/cyan]", highlight=False, soft_wrap=True)
