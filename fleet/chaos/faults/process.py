"""Kills, ends or stops processes, lets them die at a named point of the code, or sets their clocks wrong.

Only descendants of this process are signalled, each by its pid.
"""

import asyncio
import os
import signal
from contextlib import suppress

from fleet import subjects
from fleet.chaos.cluster import replica_for
from fleet.chaos.faults.target import Target, until_done
from fleet.chaos.schedule import Fault
from fleet.clock import CLOCK_OFFSET
from fleet.crashpoints import DISPATCHER, VARIABLE
from fleet.local.supervisor import Child

REACHED_WITHIN_S = 20.0
ROLLED_WITHIN_S = 30.0
"""Something else may be broken meanwhile: then the next one is ended all the same."""
LOOK_S = 0.1
MOST_REACHES = 8


async def kill(target: Target, fault: Fault) -> str:
    return await _end(target, fault, signal.SIGKILL)


async def term(target: Target, fault: Fault) -> str:
    return await _end(target, fault, signal.SIGTERM)


async def stop(target: Target, fault: Fault) -> str:
    """SIGSTOP; SIGCONT after a while: the zombie returns, and does not know how long it was away."""
    pids = _chosen(target, fault)
    _signal(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        _signal(pids, signal.SIGCONT)
    return _named("SIGSTOP", pids)


async def roll(target: Target, fault: Fault) -> str:
    """SIGTERM to each process of a kind. Dispatchers and collectors: the next one only once all are ready again."""
    pids = target.cluster.pids(fault.target)
    for pid in pids:
        _signal([pid], signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(ROLLED_WITHIN_S):
                await _until_ready_without(target, fault.target, pid)
    return _named("SIGTERM in turns", pids)


async def _until_ready_without(target: Target, kind: str, pid: int) -> None:
    while pid in await asyncio.to_thread(target.cluster.pids, kind):  # noqa: ASYNC110 (a process has no event)
        await asyncio.sleep(LOOK_S)
    while kind != "actor" and not await target.cluster.ready(kind):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


async def crash(target: Target, fault: Fault) -> str:
    """Starts a replica again with a crash point armed, and waits until it has died there. One that has not is started
    again: it would die later, when nothing is on record.
    """
    point = fault.target
    name = replica_for(point)
    if name == "collector" and fault.chance < 0.5:
        name = "dispatcher"  # the control plane's points are in both
    nth = 1 + int(fault.chance * MOST_REACHES) if point not in DISPATCHER else 1
    child = target.cluster.once(name, **{VARIABLE: f"{point}:{nth}"})
    armed = await _restart(child)
    if point in DISPATCHER:
        await _send_bad_requests(target)
    for _ in range(int(REACHED_WITHIN_S / LOOK_S)):
        if child.pid != armed:
            return f"{name} {armed} died at {point}"
        await asyncio.sleep(LOOK_S)
    await _restart(child)
    return f"{name} {armed} has not reached {point}:{nth}, and was killed"


async def clock(target: Target, fault: Fault) -> str:
    """Starts a replica again with a clock that is an hour off, and later once more with the right one."""
    name, _, offset = fault.target.partition(" ")
    child = target.cluster.once(name, **{CLOCK_OFFSET: {"+1h": "3600", "-1h": "-3600"}[offset]})
    pid = await _restart(child)
    await asyncio.sleep(fault.for_s)
    _signal([pid], signal.SIGKILL)
    return f"{name} {pid} lived at {offset}"


async def _end(target: Target, fault: Fault, how: signal.Signals) -> str:
    pids = _chosen(target, fault)
    child = target.cluster.nats.child(pids[0]) if fault.target == "nats" else None
    _signal(pids, how)
    if child is not None:
        await _until_replaced(child, pids[0])
    return _named(how.name, pids)


def _chosen(target: Target, fault: Fault) -> list[int]:
    pids = target.cluster.pids(fault.target)
    if fault.target == "actors" or not pids:
        return pids
    return [pids[int(fault.chance * len(pids))]]


async def _restart(child: Child) -> int:
    """Returns the pid of the process that has taken the place of the one that runs."""
    old = child.pid
    assert old is not None
    _signal([old], signal.SIGKILL)
    return await _until_replaced(child, old)


async def _until_replaced(child: Child, old: int) -> int:
    while child.pid in (old, None):  # noqa: ASYNC110 (a process has no event to wait for)
        await asyncio.sleep(LOOK_S)
    assert child.pid is not None
    return child.pid


async def _send_bad_requests(target: Target) -> None:
    """So that the points on the way of a rejection are reached."""
    js = target.nc.jetstream()
    for _ in range(MOST_REACHES):
        await until_done(lambda: js.publish(subjects.REQUESTED, b"{"))


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _named(what: str, pids: list[int]) -> str:
    return f"{what} {', '.join(map(str, pids))}" if pids else "nobody there"
