"""Which workers run: two versions agree on them, and a pool grows and shrinks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from fleet.config import Settings, Workers
from tests.support.waiting import until
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


class Ray:
    """Stands in for the actors of an elastic pool, by name: how many calls each has open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, made: pool.RayPool, **existing: int) -> None:
        self.prefix = made.names.own[0].removesuffix("0")
        self.open_calls = {f"{self.prefix}{name[1:]}": calls for name, calls in existing.items()}
        self.retired: set[str] = set()
        self.waiting: set[str] = set()
        self._fingerprint = made.actors.fingerprint
        monkeypatch.setattr(made.actors, "probe", self.probe)
        monkeypatch.setattr(made.actors, "retire", self.retire)
        monkeypatch.setattr(made.actors, "end", self.end)
        monkeypatch.setattr(made._control_plane, "watch", self.watch)
        monkeypatch.setattr(pool, "list_names", self.list_names)
        monkeypatch.setattr(pool, "PROBE_INTERVAL_S", 0.01)
        monkeypatch.setattr(pool, "RESTARTING_INTERVAL_S", 0.01)
        monkeypatch.setattr(pool, "LOOK_EVERY_S", 0.05)

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def list_names(self) -> list[str]:
        return [*self.open_calls]

    async def probe(self, name: str, pause_s: float, *, is_first: bool) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.open_calls.setdefault(name, 0)
        if name in self.waiting:
            raise TimeoutError
        draining = name in self.retired
        return {"fingerprint": self._fingerprint, "pid": 1, "last_fetch_age_s": 0.0, "draining": draining}

    async def retire(self, name: str, retired: bool) -> int:
        await asyncio.sleep(0)
        if name not in self.open_calls:
            raise LookupError(name)
        assert name not in self.waiting, "it would never answer"
        (self.retired.add if retired else self.retired.discard)(name)
        return self.open_calls[name]

    async def end(self, name: str) -> None:
        self.open_calls.pop(name, None)
        self.retired.discard(name)
        self.waiting.discard(name)

    @property
    def numbers(self) -> set[int]:
        return {int(name.removeprefix(self.prefix)) for name in self.open_calls}

    @asynccontextmanager
    async def supervised(self, made: pool.RayPool) -> AsyncIterator[list[int]]:
        answering: list[int] = []
        task = asyncio.create_task(made.supervise(answering.append))
        try:
            yield answering
        finally:
            task.cancel()
            await asyncio.wait([task])


def elastic() -> pool.RayPool:
    return pool.RayPool(Settings(workers=Workers(min=1, max=4)), began_ms=5)


async def test_a_pool_that_shrinks_lets_calls_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not wanted takes nothing new, and ends with its last call; the others go on."""
    made = elastic()
    ray = Ray(monkeypatch, made)
    async with ray.supervised(made) as answering:
        made.resize(4)
        await until(lambda: answering[-1:] == [4])
        last = f"{ray.prefix}3"
        ray.open_calls[last] = 1
        made.resize(2)
        await until(lambda: (ray.numbers, ray.retired) == ({0, 1, 3}, {last}))
        await until(lambda: answering[-1] == 2)
        ray.open_calls[last] = 0
        await until(lambda: ray.numbers == {0, 1})


async def test_a_worker_that_drains_and_is_wanted_again_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not ended, and no other one is started in its place."""
    made = elastic()
    ray = Ray(monkeypatch, made)
    async with ray.supervised(made) as answering:
        made.resize(2)
        await until(lambda: answering[-1:] == [2])
        ray.open_calls[f"{ray.prefix}1"] = 1
        made.resize(1)
        await until(lambda: ray.retired)
        made.resize(2)
        await until(lambda: not ray.retired and answering[-1] == 2)
    assert ray.open_calls[f"{ray.prefix}1"] == 1


async def test_a_worker_that_ray_has_no_room_for_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is not wanted: an autoscaler would bring a node for it."""
    made = elastic()
    ray = Ray(monkeypatch, made)
    ray.waiting = {f"{ray.prefix}{number}" for number in (1, 2)}
    async with ray.supervised(made):
        made.resize(3)
        await until(lambda: ray.numbers == {0, 1, 2})
        made.resize(1)
        await until(lambda: ray.numbers == {0})


async def test_until_it_is_told_a_pool_keeps_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher that starts again under load ends none of its workers; what nobody may have is ended."""
    made = elastic()
    ray = Ray(monkeypatch, made, n2=3, n9=0)
    async with ray.supervised(made) as answering:
        await until(lambda: answering[-1:] == [2] and ray.numbers == {0, 2})
        assert not ray.retired
        made.resize(3)
        await until(lambda: answering[-1] == 3)
        made.resize(0)
        await until(lambda: ray.numbers == {2})
        assert ray.retired == {f"{ray.prefix}2"}


async def test_what_a_dispatcher_that_died_has_launched_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had heard of a larger pool before."""
    made = elastic()
    ray = Ray(monkeypatch, made)
    async with ray.supervised(made) as answering:
        made.resize(1)
        await until(lambda: answering[-1:] == [1])
        ray.open_calls[f"{ray.prefix}3"] = 0
        await until(lambda: ray.numbers == {0})
