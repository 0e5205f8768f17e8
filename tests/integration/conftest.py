from collections.abc import AsyncIterator

import pytest

from tests.support.workers.fake_control_plane import Plane


@pytest.fixture
def nats_server(nats_url: str) -> str:
    """URL of a nats-server of the test's own, with JetStream."""
    return nats_url


@pytest.fixture
async def plane(nats_server: str) -> AsyncIterator[Plane]:
    made = Plane(nats_server)
    await made.open()
    yield made
    await made.nc.close()
