"""A real nats-server for whoever needs one: a free port, a temporary store, gone with the test."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.local.nats_server import EmbeddedNats, find_server

WHOLE_FLEETS = ("e2e", "documents", "chaos")
"""Levels whose tests start a Ray of their own, which others on the machine should not join."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, one of them runs all whole fleets, one after the other."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in WHOLE_FLEETS:
            item.add_marker(pytest.mark.xdist_group("whole fleets"))


@pytest.fixture
def nats_binary() -> None:
    """The binary is there: a visible skip without it on a laptop, a failure under CI."""
    try:
        find_server()
    except ConfigError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture
async def nats_url(tmp_path: Path, nats_binary: None) -> AsyncIterator[str]:
    """URL of a nats-server with JetStream. What it has written survives the process; no test here cuts the power."""
    server = EmbeddedNats(tmp_path / "nats", sync_interval="1m")
    await server.start()
    yield server.url
    await server.stop()
