"""The machines that the other tests here are made of."""

import os
import socket
from pathlib import Path

import psutil

from tests.nodes.machines import Machine, Network
from tests.support.waiting import until

SERVER = ("python3", "-m", "http.server", "8000")


def answers(machine: Machine) -> bool:
    """Whether this machine reaches it."""
    try:
        socket.create_connection((machine.address, 8000), timeout=1).close()
    except OSError:
        return False
    return True


async def test_machines_reach_each_other_until_they_are_parted(tmp_path: Path) -> None:
    """A cable that is pulled, two that do not find each other, one that is lost; and nothing is left."""
    async with (
        Network(tmp_path / "machines", tmp_path).running() as network,
        network.machine("one", 1) as one,
        network.machine("two", 2) as two,
    ):
        server = await one.run("server", *SERVER, environ={"PATH": "/usr/bin:/usr/local/bin:/usr/sbin"})
        await until(lambda: answers(one))
        one.unplug()
        assert not answers(one)
        one.plug()
        await until(lambda: answers(one))
        assert await connects(two, one)
        one.part_from(two)
        assert not await connects(two, one)
        assert answers(one)
        one.join_with(two)
        assert await connects(two, one)
        await one.lose()
        assert not answers(one)
        await until(lambda: not server.runs)
        below = psutil.Process().children(recursive=True)
        assert not [child for child in below if "http.server" in child.cmdline()]
    assert interfaces() == []
    assert psutil.Process().children() == []


def interfaces() -> list[str]:
    """Of this process's networks."""
    return [path.name for path in Path("/sys/class/net").glob(f"fleet{os.getpid()}-*")]


async def connects(one: Machine, other: Machine) -> bool:
    code = f"import socket; socket.create_connection(('{other.address}', 8000), timeout=1)"
    program = await one.run("client", "python3", "-c", code, environ={"PATH": "/usr/bin:/usr/local/bin"})
    return await program.wait() == 0
