"""Two tenants that ask for more than there is room for: their shares of tokens, on a whole fleet."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.config import Limits
from fleet.tenants.limits import Tenant
from fleet.tenants.names import EVERY, subject_of, tenant_of
from tests.support.fleets.tenants import A, B, shared
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 3.0])
async def test_shares_of_tokens_follow_the_weights(tmp_path: Path, weight: float) -> None:
    """One offers ten times as many deliberations, with twenty times the prompt. Until one of them has nothing left."""
    tenants = {A: Tenant(), B: Tenant(weight=weight)}
    used: Counter[str] = Counter()
    left = {A: 60, B: 400}
    begun, over = asyncio.Event(), asyncio.Event()

    async def count(msg: Any) -> None:
        usage = json.loads(msg.data)["usage"]
        tenant = tenant_of(msg.subject)
        left[tenant] -= 1
        if begun.is_set() and not over.is_set():
            used[tenant] += usage["prompt_tokens"] + usage["completion_tokens"]
        if min(left.values()) <= LAST:
            over.set()

    room = Limits(max_in_flight=8)
    async with (
        shared(tmp_path, SimulatorConfig(latency_ms=20), limits=tenants, room=room) as stage,
        stage.users.connected("operator") as (operator, _),
    ):
        await operator.subscribe(subject_of(EVERY, subjects.COMPLETED), cb=count)
        await operator.flush()
        for tenant, text in ((B, "light " * 200), (A, "heavy " * 4_000)):
            for number in range(left[tenant]):
                await stage[tenant].request(task_id=f"n{number}", task_description=text, num_agents=1)
        begun.set()
        async with asyncio.timeout(200):
            await over.wait()
    assert used[B] / used.total() == pytest.approx(weight / (1 + weight), rel=0.1)


LAST = 8
"""Deliberations of a tenant that are open when nothing of it waits."""
