"""Workers tell whether their model servers are there, also while nobody asks anything."""

from typing import Any

import pytest

from tests.support.waiting import until
from tests.support.workers.fake_control_plane import Plane, working
from workers.llm.servers import endpoint
from workers.simulator.server import Simulator, SimulatorConfig


async def test_a_server_that_goes_away_and_comes_back_is_told(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the worker's status; nothing is said of it before it was asked."""
    monkeypatch.setattr(endpoint, "ASK_IDLE_EVERY_S", 0.1)
    monkeypatch.setattr(endpoint, "ASK_SILENT_EVERY_S", 0.1)
    monkeypatch.setattr("workers.llm.client.LOOK_EVERY_S", 0.05)
    async with Simulator(SimulatorConfig()) as server, working(plane, server) as worker:

        def answers() -> Any:
            return worker.status().endpoints[0].answers

        await until(lambda: answers() is True)
        url = server.url
        await server.stop()
        await until(lambda: answers() is False)
        async with Simulator(SimulatorConfig(port=int(url.rpartition(":")[2]))):
            await until(lambda: answers() is True)
