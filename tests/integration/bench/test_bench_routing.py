"""`fleet bench routing`: that it measures something, and that counts which no machine disturbs hold."""

import pytest

from fleet.bench.routing import measure
from fleet.bench.routing.councils import Servers
from fleet.bench.routing.waiting import waits
from fleet.bench.speed.load import quantile


async def test_councils_find_their_prefixes_and_load_is_even() -> None:
    """Two servers: nearly what one would have in its cache, and no failure."""
    async with Servers(2, 1) as servers:
        await servers.play_all(12, at_once=4)
        assert servers.failed.total() == 0
        assert 0 < servers.cached_share() < 1
        assert 1 <= servers.busiest() < 2
        assert len(servers.waits_ms) == 12 * 4 * 4
        assert sum(len(places) == 1 for places in servers.places().values()) >= 9


@pytest.mark.slow
async def test_where_a_server_is_lost_only_its_councils_move() -> None:
    """And all are answered."""
    moved = await measure.lost(24, lambda _: None)
    assert (moved["others_moved"], moved["failed"]) == (0, 0)


def test_nobody_waits_much_longer_than_by_least_load() -> None:
    """In simulated time, with the same draws each time."""
    routed, by_load = (quantile(waits(1, 64, by_load=policy), 0.99) for policy in (False, True))
    assert routed <= 1.05 * by_load
