"""Makes machines out of Linux namespaces: each has a network, processes, mounts and a name of its own. Needs root.

A bridge in a further namespace connects them, and this machine has one interface there, for clients. Each lives as long
as its first process, which ends when this program does: whatever happens, processes, interfaces and mounts are gone.
"""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.support.waiting import until

TOOLS = ("ip", "nsenter", "unshare")
CLIENT = 254
"""The last part of this machine's address."""
NOBODY = "02:00:00:00:00:01"
"""An address of the bridge that no machine has."""
ENDED_WITHIN_S = 60.0
FIRST_PROCESS = """
hostname "$0" && ip link set lo up && mount -t tmpfs tmpfs /dev/shm || exit
while [ $# -gt 1 ]; do mount --bind "$1" "$2" || exit; shift 2; done
echo ready
read -r _ # until standard input ends
"""
_numbers = itertools.count()


def missing() -> str | None:
    """Why there can be no machines here; None where there can."""
    if os.geteuid() != 0:
        return "namespaces are made by root only"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{' and '.join(absent)} missing: install iproute2 and util-linux" if absent else None


class Machine:
    """One of a network. `folder` is what it keeps on disk; a machine that takes its place finds it there."""

    def __init__(self, network: "Network", name: str, number: int, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.address = network.address(number)
        self._network = network
        self._process: Process | None = None
        self._pid = 0

    async def start(self) -> None:
        """`private` of the network is a folder of its own on each machine."""
        private = self.folder / "private"
        private.mkdir(parents=True, exist_ok=True)
        self._process, self._pid = await _namespaces(self.name, private, self._network.private)
        port = self._network.port(self.name)
        await until(lambda: not self._network.has(port))  # that of a machine which was lost goes by and by
        ip("link", "add", "eth0", "netns", str(self._pid), "type", "veth", "peer", port, "netns", self._network.pid)
        self._ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self._ip("link", "set", "eth0", "up")
        self._ip("route", "add", "default", "via", self._network.address(CLIENT))
        self._network.plug(port)

    async def lose(self) -> None:
        """At once, with all that runs there: nobody is told."""
        if self._process is not None and self._process.returncode is None:
            os.kill(self._pid, signal.SIGKILL)
            await self._process.wait()

    def processes(self) -> list[psutil.Process]:
        """All that run there."""
        own = _namespace(self._pid)
        return [process for process in psutil.process_iter() if _namespace(process.pid) == own]

    def unplug(self) -> None:
        """Its processes go on, and reach nobody."""
        self._network.ip("link", "set", self._network.port(self.name), "down")

    def plug(self) -> None:
        self._network.ip("link", "set", self._network.port(self.name), "up")

    def part_from(self, other: "Machine") -> None:
        """These two do not reach each other any more; nobody tells them."""
        for one, far in ((self, other), (other, self)):
            one._ip("neigh", "replace", far.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def join_with(self, other: "Machine") -> None:
        for one, far in ((self, other), (other, self)):
            one._ip("neigh", "del", far.address, "dev", "eth0")

    async def run(self, name: str, *command: str, environ: Mapping[str, str]) -> "Program":
        """Starts a program there; its log is `<name>.log` in `folder`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("nsenter", "--target", str(self._pid), "--all", "--wd=/", "--", *command),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env={**environ},
                start_new_session=True,
            )
        return Program(process)

    def _ip(self, *words: str) -> None:
        _inside(self._pid, *words)


class Program:
    """One that runs on a machine."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Signals it and waits until it has ended; nothing to do for one that has."""
        if not self.runs:
            return
        for child in psutil.Process(self._process.pid).children():  # `nsenter` waits for it, and passes nothing on
            child.send_signal(how)
        async with asyncio.timeout(ENDED_WITHIN_S):
            await self.wait()

    async def wait(self) -> int:
        """Until it has ended: its exit status."""
        return await self._process.wait()


class Network:
    """Machines on one bridge. `private`: a folder that is another one on each of them."""

    def __init__(self, folder: Path, private: Path) -> None:
        self.private = private
        self.pid = ""
        self._folder = folder
        self._id = f"{os.getpid()}-{next(_numbers)}"
        self._subnet = _free_subnet()

    def address(self, number: int) -> str:
        return f"{self._subnet}.{number}"

    def port(self, machine: str) -> str:
        """Of the bridge."""
        return f"p-{machine}"

    def plug(self, port: str) -> None:
        self.ip("link", "set", port, "master", "bridge", "up")

    def has(self, port: str) -> bool:
        return port in _inside(int(self.pid), "-brief", "link", "show", "type", "veth")

    def ip(self, *words: str) -> None:
        _inside(int(self.pid), *words)

    @asynccontextmanager
    async def machine(self, name: str, number: int) -> AsyncIterator[Machine]:
        """It runs inside."""
        machine = Machine(self, name, number, self._folder / name)
        try:
            await machine.start()
            yield machine
        finally:
            await machine.lose()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Network"]:
        """The bridge is there inside, and this machine has an interface on it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        process, pid = await _namespaces("bridge")
        self.pid = str(pid)
        try:
            self.ip("link", "add", "bridge", "type", "bridge")
            self.ip("link", "set", "bridge", "up")
            own, port = f"fleet{self._id}", self.port("client")
            ip("link", "add", own, "type", "veth", "peer", port, "netns", self.pid)
            ip("addr", "add", f"{self.address(CLIENT)}/24", "dev", own)
            ip("link", "set", own, "up")
            self.plug(port)
            yield self
        finally:
            os.kill(pid, signal.SIGKILL)
            await process.wait()
            await until(lambda: not (Path("/sys/class/net") / f"fleet{self._id}").exists())


async def _namespaces(name: str, *mounts: Path) -> tuple[Process, int]:
    """New ones, and the pid of their first process as this machine knows it. `mounts`: what is put where, in turns."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("bash", "-c", FIRST_PROCESS, name, *map(str, mounts)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = await process.stdout.readline()
    assert line == b"ready\n", f"no namespaces for {name}: {(await process.stderr.read()).decode()}"
    (first,) = psutil.Process(process.pid).children()
    return process, first.pid


def _namespace(pid: int) -> str | None:
    """Of processes."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True, text=True)


def _inside(pid: int, *words: str) -> str:
    command = ("nsenter", "--target", str(pid), "--net", "--", "ip", *words)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def _free_subnet() -> str:
    """Of those that are set aside for tests of networks."""
    known = subprocess.run(("ip", "route"), check=True, capture_output=True, text=True).stdout
    return next(subnet for subnet in (f"198.18.{third}" for third in range(256)) if f"{subnet}." not in known)
