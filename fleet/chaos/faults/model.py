"""Breaks the model server: switches on its simulated faults, or stops its process."""

import asyncio
import os
import signal

from fleet.chaos.faults.target import Target
from fleet.chaos.schedule import Fault
from workers.simulator.client import configure

FLAPPING_S = 1.0
RETRY_AFTER_S = 0.5
LEAST_SHARE = 0.3


async def spoil(target: Target, fault: Fault) -> str:
    """A share of the calls, or the whole server, for a while."""
    if fault.target == "stop":
        return await _stop(target, fault)
    share = round(LEAST_SHARE + (1 - LEAST_SHARE) * fault.chance, 2)
    faults = {"flapping": FLAPPING_S} if fault.target == "flapping" else {fault.target: share}
    try:
        await configure(target.cluster.vllm_url, faults={**faults, "retry_after_s": RETRY_AFTER_S})
        await asyncio.sleep(fault.for_s)
    finally:
        await configure(target.cluster.vllm_url, faults={})
    return ", ".join(f"{name} {value}" for name, value in faults.items())


async def _stop(target: Target, fault: Fault) -> str:
    pid = target.cluster.model.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        os.kill(pid, signal.SIGCONT)
    return f"SIGSTOP {pid}"
