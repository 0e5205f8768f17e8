"""Health: what makes a component alive, ready, and what a stall is."""

import asyncio
import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.config import load
from fleet.control.background import Background
from fleet.control.recovery.watchdog import STALLED_AFTER_S, Flow
from fleet.errors import ConfigError, FleetError
from fleet.local import ports
from fleet.local.ports import free_port, health_ports
from fleet.observability import health
from fleet.observability.health import Health, Observation
from tests.support.clock import Clock
from tests.support.tasks import drops_one_cancellation
from tests.support.waiting import WITHIN_S
from workers.ray_pool import pool


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(health, "time", made)
    return made


def test_a_loop_that_does_not_turn_is_not_alive(clock: Clock) -> None:
    """Only the loop itself beats."""
    component = Health("test")
    component.set("nats", ok=True)
    assert component.alive
    clock.now += health.STALE_S
    component.set("nats", ok=True)
    assert not component.alive
    component.beat()
    assert component.alive


def test_a_probe_that_is_not_answered_any_more_is_a_problem(clock: Clock) -> None:
    """An old good answer is none."""
    component = Health("test")
    component.set("nats", ok=True)
    assert component.problems() == []
    clock.now += health.STALE_S + 1
    assert component.problems() == ["nats"]


def test_each_problem_is_named_until_it_is_over() -> None:
    """Those that are told, and those that are asked for."""
    component = Health("test")
    component.set("stream X is full", ok=False)
    component.watch("workers", lambda: Observation(False, "0 of 4 workers answer"))
    assert component.problems() == ["stream X is full", "workers"]
    component.forget("stream X is full")
    assert component.problems() == ["workers"]


def test_what_is_expected_is_a_problem_until_it_was_seen() -> None:
    """Nothing is assumed."""
    component = Health("test")
    component.expect("nats", "NATS has not answered yet")
    assert component.readiness() == {
        "ready": False,
        "problems": ["nats"],
        "details": {"nats": "NATS has not answered yet"},
    }
    component.set("nats", ok=True)
    assert component.readiness() == {"ready": True, "problems": [], "details": {}}


def test_what_is_fine_can_have_a_detail(clock: Clock) -> None:
    """Some workers are enough; the missing ones are told. Every problem has a sentence."""
    component = Health("test")
    component.watch("workers", lambda: Observation(True, "3 of 4 workers answer"))
    component.set("nats", ok=True)
    assert component.readiness() == {"ready": True, "problems": [], "details": {"workers": "3 of 4 workers answer"}}
    clock.now += health.STALE_S + 1
    details = component.readiness()["details"]
    assert details == {"nats": "not seen to work for 11 s", "workers": "3 of 4 workers answer"}


async def test_a_taken_port_is_an_error_that_names_the_setting_and_the_port() -> None:
    """Before anything else is begun."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"FLEET_HEALTH_PORT={port}"):
            await health.listen(Health("test"), "127.0.0.1", port)


@pytest.mark.parametrize("given", ["tcp://10.0.0.1:9464", "0", "65536", "-1", "http", "9464.0"])
def test_a_port_that_is_none_is_an_error_that_names_the_setting(given: str) -> None:
    """`tcp://…` is what Kubernetes sets for a Service named `fleet-health`."""
    with pytest.raises(ConfigError, match="FLEET_HEALTH_PORT"):
        load({"FLEET_HEALTH_PORT": given})


def test_without_a_port_nothing_is_served() -> None:
    """An empty one is none."""
    assert load({"FLEET_HEALTH_PORT": ""}).health_port is None
    assert load({"FLEET_HEALTH_PORT": "9464"}).health_port == 9464


def test_fleet_up_gives_each_component_a_port() -> None:
    """None is lost silently: where there is no next port it is an error."""
    assert health_ports(load({})) == {}
    assert health_ports(load({"FLEET_HEALTH_PORT": "9464"})) == {"dispatcher": 9464, "collector": 9465}
    with pytest.raises(ConfigError, match="FLEET_HEALTH_PORT"):
        health_ports(load({"FLEET_HEALTH_PORT": "65535"}))


def test_where_health_is_served_is_no_reason_to_replace_workers() -> None:
    """Two dispatchers on one machine have different ports."""
    pools = [pool.RayPool(load({"FLEET_HEALTH_PORT": port})) for port in ("9464", "9465")]
    assert pools[0].actors.fingerprint == pools[1].actors.fingerprint


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever got it does not listen yet. The ports of health are given, too."""
    monkeypatch.setattr(ports, "QUIET", range(20_000, 20_004))
    monkeypatch.setattr(ports, "is_free", lambda _: True)
    monkeypatch.setattr(ports, "_PROMISED", deque())
    of_health = health_ports(load({"FLEET_HEALTH_PORT": "20001"}))
    assert {*of_health.values()} | {free_port(), free_port()} == {*ports.QUIET}


async def test_a_health_port_that_is_lost_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not silence."""
    made: list[asyncio.Server] = []
    loop = asyncio.get_running_loop()
    create = loop.create_server

    async def keep(*given: Any) -> asyncio.Server:
        made.append(await create(*given))
        return made[0]

    monkeypatch.setattr(loop, "create_server", keep)
    port = free_port()
    serving = asyncio.create_task(await health.listen(Health("test"), "127.0.0.1", port))
    made[0].close()
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(FleetError, match=str(port)):
            await serving


async def test_a_part_that_ends_ends_the_whole() -> None:
    """Whether it failed or only returned, and also while the whole is still starting."""

    async def fails() -> None:
        raise ConfigError("broken")

    async def returns() -> None:
        return

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(WITHIN_S):
        for part, said in ((fails, "broken"), (returns, "part has ended by itself")):
            for first in (for_ever, returns):
                background = Background()
                background.start("part", part())
                with pytest.raises(FleetError, match=said):
                    await background.run(first)
        background = Background()
        background.start("part", for_ever())
        with pytest.raises(ConfigError):
            await background.run(fails)
        await background.stop()


async def test_a_part_that_is_stopped_ends_nothing_else() -> None:
    """It was asked to."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    background = Background()
    background.start("one", for_ever())
    background.start("other", for_ever())
    running = asyncio.create_task(background.run(for_ever))
    await background.stop("one")
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await background.stop()


async def test_a_part_that_drops_a_cancellation_is_stopped_nevertheless() -> None:
    """As `asyncio.wait_for` does on Python 3.11 where a cancellation comes together with the result."""
    background = Background()
    background.start("part", drops_one_cancellation())
    (task,) = background._tasks.values()
    await asyncio.sleep(0)
    await background.stop("part")
    assert task.cancelled()


def consumer(*, delivered: int, pending: int, unacknowledged: int = 0, acknowledged: int = 0) -> Any:
    return SimpleNamespace(
        delivered=SimpleNamespace(consumer_seq=delivered),
        ack_floor=SimpleNamespace(consumer_seq=acknowledged),
        num_pending=pending,
        num_ack_pending=unacknowledged,
        config=SimpleNamespace(max_ack_pending=10),
    )


LATER = STALLED_AFTER_S + 1


def test_messages_that_wait_and_do_not_come_are_a_stall() -> None:
    """Not at once: they may be on their way."""
    flow = Flow()
    assert not flow.stalled(consumer(delivered=5, pending=3), 0)
    assert not flow.stalled(consumer(delivered=5, pending=3), 1)
    assert flow.stalled(consumer(delivered=5, pending=4), LATER)
    assert not flow.stalled(consumer(delivered=6, pending=3), LATER + 1)


def test_nothing_to_do_is_no_stall() -> None:
    """However long."""
    flow = Flow()
    assert not flow.stalled(consumer(delivered=5, pending=0), 0)
    assert not flow.stalled(consumer(delivered=5, pending=0), LATER)
    assert not flow.stalled(consumer(delivered=5, pending=1), LATER + 1)


def test_a_consumer_that_has_its_hands_full_is_not_stalled() -> None:
    """Requests beyond `max_in_flight` wait as long as it takes."""
    flow = Flow()
    for now in (0.0, LATER):
        assert not flow.stalled(consumer(delivered=10, pending=3, unacknowledged=10), now)
