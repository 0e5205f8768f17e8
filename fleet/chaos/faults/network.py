"""Breaks the links between the fleet and NATS."""

import asyncio

from fleet.chaos.faults.target import Target
from fleet.chaos.proxy import Link, Which
from fleet.chaos.schedule import STUCK, Fault


async def partition(target: Target, fault: Fault) -> str:
    """Nothing passes for longer than `ack_wait`; then everything that was held back arrives, late."""
    held = target.cluster.proxy.silence(_which(fault), coming=fault.target != STUCK)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        target.cluster.proxy.heal()
    return f"{held} links were silent"


async def cut(target: Target, fault: Fault) -> str:
    """The connections are closed."""
    return f"{target.cluster.proxy.cut(_which(fault))} links were cut"


def _which(fault: Fault) -> Which:
    if fault.target in ("all", STUCK):
        return lambda link: True
    if fault.target == "some":
        # By connection: of one process the one that publishes may be cut off, the one that listens not.
        parity = int(fault.chance * 2)
        return lambda link: link.number % 2 == parity

    def named(link: Link) -> bool:
        return link.name.startswith(f"fleet-{fault.target}")

    return named
