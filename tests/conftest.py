"""A real nats-server for whoever needs one: a free port, a temporary store, gone with the test."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.local.nats_server import EmbeddedNats, find_server


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
    """URL of a nats-server with JetStream."""
    server = EmbeddedNats(tmp_path / "nats")
    await server.start()
    yield server.url
    await server.stop()
