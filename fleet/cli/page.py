"""Runs `fleet page`: writes the files of the page, for any web server."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli import options
from fleet.cli.output import print_json, say
from fleet.page import files


def page(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write them.", show_default=False)],
    nats: Annotated[
        list[str] | None,
        typer.Option("--nats", metavar="URL", help="WebSocket of NATS, as wss://nats.example:443; may be repeated."),
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Write the page for any web server. It speaks NATS over WebSocket with the rights of whoever logs in.

    Without --nats it goes to port 9222 of the host that it came from. `fleet up`
    serves it by itself, and prints its address.

    [dim]Example:[/dim]  fleet page --out /var/www/fleet --nats wss://nats.example:9222
    """
    files.write(out, nats or ())
    written = len(files.NAMES) + 1
    if json_output:
        print_json({"directory": str(out), "files": written})
    else:
        say(f"{written} files in {out}")
