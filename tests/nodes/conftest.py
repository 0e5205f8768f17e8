"""One fleet on machines of its own for all tests of this folder; each test leaves it whole."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.nodes.cluster import Cluster, running
from tests.nodes.machines import missing


@pytest.fixture(scope="session", autouse=True)
def _possible() -> None:
    """A clear word where it is not."""
    reason = missing()
    assert reason is None, reason


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running(tmp_path_factory.mktemp("machines")) as cluster:
        yield cluster
