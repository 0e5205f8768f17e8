"""A real nats-server for whoever needs one: a free port, a temporary store, gone with the test."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.embedded import EmbeddedNats, find_server
from fleet.errors import ConfigError


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncIterator[str]:
    """URL of a nats-server with JetStream."""
    try:
        find_server()
    except ConfigError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    server = EmbeddedNats(tmp_path / "nats")
    await server.start()
    yield server.url
    await server.stop()
