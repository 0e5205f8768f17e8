"""Dispatchers of two versions side by side agree on whose workers run."""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from fleet.config import Settings, Workers
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

    async def probe(name: str, pause_s: float, *, is_first: bool) -> dict[str, Any]:
        return {"fingerprint": "another", "launched_by": launched_by, "pid": 1, "last_fetch_age_s": 0.0}

    async def end(name: str) -> None:
        ended.append(name)

    monkeypatch.setattr(made.actors, "probe", probe)
    monkeypatch.setattr(made.actors, "end", end)
    await made._ensure("worker")
    assert ended == ["worker"] * replaced


async def test_workers_are_replaced_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one ends once the one before answers: there is always one that works."""
    made = pool.RayPool(Settings(workers=Workers(count=3)), began_ms=5)
    current: dict[str, str] = dict.fromkeys(made.names.own, "another")
    away: set[str] = set()
    most_away = 0

    async def probe(name: str, pause_s: float, *, is_first: bool) -> dict[str, Any]:
        await asyncio.sleep(0.01)  # Ray starts it
        away.discard(name)
        return {"fingerprint": current[name], "launched_by": UNKNOWN, "pid": 1, "last_fetch_age_s": 0.0}

    async def end(name: str) -> None:
        nonlocal most_away
        assert current[name] == "another"
        current[name] = made.actors.fingerprint
        away.add(name)
        most_away = max(most_away, len(away))

    monkeypatch.setattr(made.actors, "probe", probe)
    monkeypatch.setattr(made.actors, "end", end)
    await asyncio.gather(*map(made._ensure, made.names.own))
    assert set(current.values()) == {made.actors.fingerprint}
    assert most_away == 1


@pytest.mark.parametrize(("launched_by", "ended"), [(generation("0.1.0", 4), True), (generation("0.1.0", 6), False)])
async def test_actors_of_a_fleet_that_had_more_are_ended(
    monkeypatch: pytest.MonkeyPatch, launched_by: Any, ended: bool
) -> None:
    """Unless a newer dispatcher launched them; those of other fleets are nobody's business."""
    monkeypatch.setattr(pool, "__version__", "0.1.0")
    made = pool.RayPool(Settings(), began_ms=5)
    (own,) = made.names.own
    surplus = own.removesuffix("0") + "1"
    gone = []

    async def list_names() -> list[str]:
        return [own, surplus, "fleet-worker-other-7", "fleet-worker-fleet-b-1"]

    async def probe(name: str, pause_s: float, *, is_first: bool) -> dict[str, Any]:
        return {"launched_by": launched_by}

    async def end(name: str) -> None:
        gone.append(name)

    monkeypatch.setattr(pool, "list_names", list_names)
    monkeypatch.setattr(made.actors, "probe", probe)
    monkeypatch.setattr(made.actors, "end", end)
    await made._end_surplus()
    assert gone == [surplus] * ended


async def test_a_part_that_fails_ends_the_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stops alone: the launcher's process ends with the error, and its supervisor starts it again."""

    async def list_names() -> list[str]:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr(pool, "list_names", list_names)
    made = pool.RayPool(structs.replace(Settings(), workers=Workers(count=0)))
    with pytest.raises(ValueError, match="nobody foresaw this"):
        await made.supervise(lambda answering: None)
