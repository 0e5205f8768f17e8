"""Puts the command line together: settings are read here, and parts are built from them.

Modules of a command are imported when it runs, so that `fleet --help` and `fleet result` answer at once.
"""

import io
import os
import sys
from typing import Annotated

import typer

from fleet import __version__
from fleet.cli import bench, chaos, client, deadletters, demo, mcp_server, page, run
from fleet.cli.doctor import command as doctor
from fleet.cli.models import command as models
from fleet.cli.output import ReaderGone
from fleet.cli.overview import listing, status, tenants, top
from fleet.cli.report import command as report
from fleet.errors import BadRequest, ConfigError, FleetError, Unreachable
from fleet.exits import Exit
from fleet.observability.visible import visible

EPILOG = (
    "Exit status: 0 done · 1 the deliberation failed or was cancelled · 2 bad usage or bad request, or nobody knows "
    "the task · 3 no NATS · 4 it has not ended yet · 130 interrupted."
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fleet {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="fleet",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, USE, OPERATE = "Start", "Deliberate", "Operate"

app.command(rich_help_panel=START)(run.up)
app.command(rich_help_panel=START)(demo.demo)
app.command(rich_help_panel=START)(run.dispatcher)
app.command(rich_help_panel=START)(run.collector)
app.command(
    rich_help_panel=START,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)(run.simulator)
app.command(rich_help_panel=USE)(client.ask)
app.command(rich_help_panel=USE)(client.submit)
app.command(rich_help_panel=USE)(client.watch)
app.command(rich_help_panel=USE)(client.result)
app.command(rich_help_panel=USE)(client.cancel)
app.command("list", rich_help_panel=USE)(listing.list_)
app.command(rich_help_panel=USE)(report.report)
app.command(rich_help_panel=USE)(mcp_server.mcp)
app.add_typer(deadletters.app, name="deadletter", rich_help_panel=OPERATE)
app.command(rich_help_panel=OPERATE)(status.status)
app.command(rich_help_panel=OPERATE)(tenants.tenants)
app.command(rich_help_panel=OPERATE)(top.top)
app.command(rich_help_panel=OPERATE)(models.models)
app.command(rich_help_panel=OPERATE)(doctor.doctor)
app.command(rich_help_panel=OPERATE)(page.page)
app.add_typer(bench.app, name="bench", rich_help_panel=OPERATE)
app.command(rich_help_panel=OPERATE)(chaos.chaos)


@app.callback()
def fleet(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A fleet of LLM agents that deliberate: every agent proposes, its peers criticise, the best answer wins."""


def main() -> None:
    """The entry point: an error is one line that says what to do, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_arguments(sys.argv[1:])
        app()
    except Unreachable as error:
        _fail(error, Exit.UNREACHABLE)
    except (BadRequest, ConfigError) as error:
        _fail(error, Exit.BAD_REQUEST)
    except FleetError as error:
        _fail(error, Exit.FAILED)
    except ReaderGone:  # `fleet watch | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
        sys.exit(Exit.DONE)


def _check_arguments(arguments: list[str]) -> None:
    """Raises `BadRequest` for what the shell could not hand over as text."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode(errors="backslashreplace")
            raise BadRequest("invalid", "$", f"this argument is no UTF-8 text: {shown}") from None


def _fail(error: FleetError, status: Exit) -> None:
    print(f"fleet: {visible(str(error))}", file=sys.stderr)
    sys.exit(status)
