"""Runs `fleet tenants`: what each tenant may use, and uses."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleet.cli import options
from fleet.cli.output import literal, print_json, wide_console
from fleet.config import Settings
from fleet.local.data_dir import client_settings

if TYPE_CHECKING:
    from rich.table import Table

    from fleet.client.tenants import TenantUse


def tenants(
    data_dir: options.DataDir = options.DATA_DIR, nats_url: options.NatsUrl = None, json_output: options.Json = False
) -> None:
    """List tenants: what each of them may use, what waits and what runs.

    It looks as a user of the fleet's account, such as viewer or operator.
    With --json each tenant is one line.

    [dim]Example:[/dim]  fleet tenants --json
    """
    asyncio.run(_tenants(client_settings(data_dir, nats_url), json_output))


async def _tenants(settings: Settings, json_output: bool) -> None:
    from msgspec import to_builtins

    from fleet.client.session import session
    from fleet.client.tenants import uses

    async with session(settings) as fleet:
        listed = await uses(fleet)
    if json_output:
        for each in listed:
            print_json(to_builtins(each))
    else:
        wide_console().print(table(listed))


def table(listed: Sequence["TenantUse"]) -> "Table":
    """One row for each tenant."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tenant", "weight", "in flight", "waiting", "tokens today"):
        shown.add_column(name, justify="left" if name == "tenant" else "right")
    for each in listed:
        most = f" of {each.max_waiting:,}" if each.max_waiting else ""
        budget = f" of {each.tokens_per_day:,}" if each.tokens_per_day else ""
        used = "–" if each.used_today is None else f"{each.used_today:,}{budget}"
        room = f" of {each.max_in_flight:,}" if each.max_in_flight else ""
        numbers = (f"{each.weight:g}", f"{each.in_flight:,}{room}", f"{each.waiting:,}{most}", used)
        shown.add_row(literal(each.tenant), *numbers)
    return shown
