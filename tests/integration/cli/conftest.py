"""A NATS with the shipped permissions, for commands of its users."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.nats.permitted import Users, permitted


@pytest.fixture
async def users(tmp_path: Path, nats_binary: None) -> AsyncIterator[Users]:
    async with permitted(tmp_path / "nats") as found:
        yield found
