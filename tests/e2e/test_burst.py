"""A burst of requests, far more than run at once, is worked off with bounded memory.

`BURST=10000 .venv/bin/python -m pytest tests/e2e/test_burst.py -s --timeout 3600` is the long run, and prints what each
process needed at most until its start was over, at most, and after.
"""

import asyncio
import json
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.local.process_titles import kind_of
from tests.e2e.conftest import Up, start, stop

pytestmark = pytest.mark.slow

BURST = int(os.environ.get("BURST", "300"))
WITHIN_S = 3000
PUBLISHED_AT_ONCE = 500
GROWTH_MIB = 100
"""What a process may need beyond its start, whatever the size of the burst."""
BODY = {"task_description": "Design a rate limiter", "num_agents": 2, "rounds": 0}
KINDS = ("dispatcher", "collector", "actor", "nats")


class Memory:
    """Resident MiB of each kind of process, as the kernel counts them."""

    def __init__(self, up: Up) -> None:
        self._family = psutil.Process(up.process.pid)
        self.at_start = self._read("VmHWM")

    def now(self) -> dict[str, int]:
        return self._read("VmRSS")

    def most(self) -> dict[str, int]:
        """At any time until now."""
        return self._read("VmHWM")

    def _read(self, field: str) -> dict[str, int]:
        found: Counter[str] = Counter()
        for process in self._family.children(recursive=True):
            with suppress(psutil.Error, OSError):
                kind = kind_of(process)
                if kind in KINDS:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    found[kind] += int(status.partition(f"{field}:")[2].split()[0]) >> 10
        return dict(found)


class Endings:
    """Terminal events by task, as a core subscriber sees them."""

    def __init__(self) -> None:
        self.statuses: dict[str, list[str]] = {}
        self._news = asyncio.Condition()

    async def take(self, msg: Any) -> None:
        body = json.loads(msg.data)
        async with self._news:
            self.statuses.setdefault(body["task_id"], []).append(body["status"])
            self._news.notify_all()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S), self._news:
            await self._news.wait_for(lambda: len(self.statuses) >= count)


async def publish(up: Up, count: int) -> set[str]:
    """As fast as NATS takes them; returns the ids."""
    js, body, ids = up.nc.jetstream(), json.dumps(BODY).encode(), set[str]()
    while left := count - len(ids):
        wave = [js.publish("deliberation.requested", body, timeout=30) for _ in range(min(left, PUBLISHED_AT_ONCE))]
        ids |= {f"d-{ack.seq}" for ack in await asyncio.gather(*wave)}
    return ids


async def test_a_burst_is_worked_off_with_bounded_memory(tmp_path: Path) -> None:
    """Each request ends once, completed; no process grows with the number of requests."""
    up = await start(tmp_path / "data")
    endings = Endings()
    for subject in ("deliberation.completed", "deliberation.failed", "deliberation.cancelled"):
        await up.nc.subscribe(subject, cb=endings.take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    memory = Memory(up)
    began = time.monotonic()
    ids = await publish(up, BURST)
    published_s = time.monotonic() - began
    await endings.wait_for(BURST)
    took_s = time.monotonic() - began
    most, after = memory.most(), memory.now()
    print(f"\n{BURST} requests, published in {published_s:.1f} s, done in {took_s:.1f} s: {BURST / took_s:.0f}/s")
    print(f"{'MiB resident':14}{'at start':>9}{'most':>8}{'after':>8}")
    for kind, at_start in sorted(memory.at_start.items()):
        print(f"{kind:14}{at_start:9}{most[kind]:8}{after[kind]:8}")
    assert await stop(up) == 0
    assert endings.statuses == {task_id: ["COMPLETED"] for task_id in ids}
    for kind in ("dispatcher", "collector", "actor"):
        assert most[kind] - memory.at_start[kind] < GROWTH_MIB, kind
