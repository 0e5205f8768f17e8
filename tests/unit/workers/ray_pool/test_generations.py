"""Dispatchers of two versions side by side agree on whose workers run."""

from typing import Any

import pytest

from fleet.config import Settings
from workers.ray_pool import pool
from workers.ray_pool.launcher_generations import UNKNOWN, generation


def test_a_newer_version_outranks_a_later_start() -> None:
    """Its numbers are compared as numbers; of one version the later dispatcher decides."""
    assert generation("0.10.0", 1) > generation("0.9.3", 2) > generation("0.9.3", 1) > UNKNOWN


@pytest.mark.parametrize(
    ("launched_by", "replaced"),
    [(UNKNOWN, True), (generation("0.0.9", 9), True), (generation("0.1.0", 4), True), (generation("0.1.0", 6), False)],
)
async def test_only_the_workers_of_an_older_dispatcher_are_replaced(
    monkeypatch: pytest.MonkeyPatch, launched_by: Any, replaced: bool
) -> None:
    """Those with other settings that a newer one launched are left to it."""
    monkeypatch.setattr(pool, "__version__", "0.1.0")
    made = pool.RayPool(Settings(), began_ms=5)
    ended = []

    async def probe(name: str, pause_s: float) -> dict[str, Any]:
        return {"fingerprint": "another", "launched_by": launched_by, "pid": 1, "last_fetch_age_s": 0.0}

    async def end(name: str) -> None:
        ended.append(name)

    monkeypatch.setattr(made, "_probe", probe)
    monkeypatch.setattr(pool, "_end", end)
    await made._ensure("worker")
    assert ended == ["worker"] * replaced


@pytest.mark.parametrize(("launched_by", "ended"), [(generation("0.1.0", 4), True), (generation("0.1.0", 6), False)])
async def test_actors_of_a_fleet_that_had_more_are_ended(
    monkeypatch: pytest.MonkeyPatch, launched_by: Any, ended: bool
) -> None:
    """Unless a newer dispatcher launched them; those of other fleets are nobody's business."""
    monkeypatch.setattr(pool, "__version__", "0.1.0")
    made = pool.RayPool(Settings(), began_ms=5)
    (own,) = made._names
    surplus = own.removesuffix("0") + "1"
    named = [
        {"name": name, "namespace": pool.NAMESPACE}
        for name in (own, surplus, "fleet-worker-other-7", "fleet-worker-fleet-b-1")
    ]
    gone = []

    async def probe(name: str, pause_s: float) -> dict[str, Any]:
        return {"launched_by": launched_by}

    async def end(name: str) -> None:
        gone.append(name)

    monkeypatch.setattr(pool.ray.util, "list_named_actors", lambda all_namespaces: named)
    monkeypatch.setattr(made, "_probe", probe)
    monkeypatch.setattr(pool, "_end", end)
    await made._end_surplus()
    assert gone == [surplus] * ended
