"""Runs jobs on texts of strangers in processes that can be killed: each has a limit of time and of memory.

A regular expression, a JSON Schema or a YAML document can keep a parser busy for years, and no thread can be ended. A
job is a function of ours, named `module:function`; its arguments and its result are JSON values. The processes are
started when the first job comes, serve one job after the other, end after a minute without work, and are replaced when
they were killed.
"""

import asyncio
import json
import math
import os
import select
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from inspect import iscoroutine
from typing import Any, BinaryIO

import structlog

from fleet.config import unconfigured
from fleet.errors import FleetError

log = structlog.get_logger(__name__)

MOST = 2
"""Processes of one pool; further jobs wait."""
MEMORY_BYTES = 1024**3
"""Of address space, for one process and for each one that it starts."""
WALL_PER_CPU = 10
"""A job that waits instead of computing, or on a busy machine, may take this many times its processor time."""
IDLE_S = 60.0
MAX_REPLY_BYTES = 16 * 1024**2


class Exhausted(FleetError):
    """The job came to no end within its limits; the text says which one it ran into."""


class JobFailed(FleetError):
    """The job raised an exception: a defect of ours."""


class Processes:
    """A small pool. All of it belongs to one event loop."""

    def __init__(self, most: int = MOST) -> None:
        self._room = asyncio.Semaphore(most)
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    async def run(self, job: str, *arguments: Any, cpu_s: int) -> Any:
        """The job's result. Raises `Exhausted` and `JobFailed`; when cancelled, the job is killed."""
        frame = json.dumps([job, arguments, cpu_s]).encode()
        async with self._room:
            while True:
                child = self._idle.pop() if self._idle else await _Child.start()
                self._busy.add(child)
                used_before, kept = child.used, False
                try:
                    reply = await child.do(frame, cpu_s)
                    kept = True
                except _ProcessLost as gone:
                    # One that had worked before may have ended for want of work, or be full of what others left.
                    if used_before and not gone.out_of_time:
                        continue
                    log.warning("job.killed", job=job, reason=str(gone))
                    raise Exhausted(str(gone)) from None
                finally:
                    self._busy.discard(child)
                    if kept:
                        self._idle.append(child)
                    else:
                        await child.kill()
                if "error" in reply:
                    raise JobFailed(f"{job}: {reply['error']}")
                return reply["result"]

    async def close(self) -> None:
        """Kills them all; no job runs any more, or comes to an end."""
        idle, self._idle = self._idle, []
        for child in (*idle, *self._busy):
            await child.kill()


class _ProcessLost(Exception):
    """The process is not there any more, or must not be."""

    def __init__(self, why: str, *, out_of_time: bool = False) -> None:
        super().__init__(why)
        self.out_of_time = out_of_time


class _Child:
    def __init__(self, process: Process) -> None:
        self._process = process
        self.used = False

    @classmethod
    async def start(cls) -> "_Child":
        environ = unconfigured(os.environ) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = (sys.executable, "-c", "from fleet.killable import serve; serve()")
        # A session of its own: what it starts is killed together with it.
        return cls(
            await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environ, start_new_session=True
            )
        )

    async def do(self, frame: bytes, cpu_s: int) -> dict[str, Any]:
        self.used = True
        try:
            async with asyncio.timeout(cpu_s * WALL_PER_CPU):
                reply = await self._talk(frame)
                if reply is None:
                    await self._process.wait()
        except TimeoutError:
            raise _ProcessLost(f"took longer than {cpu_s * WALL_PER_CPU} s", out_of_time=True) from None
        if reply is not None:
            answer: dict[str, Any] = json.loads(reply)
            return answer
        if self._process.returncode == -getattr(signal, "SIGXCPU", 0):
            raise _ProcessLost(f"took more than {cpu_s} s of processor time", out_of_time=True)
        raise _ProcessLost(f"crashed, or needed more than {MEMORY_BYTES // 1024**2} MiB of memory")

    async def _talk(self, frame: bytes) -> bytes | None:
        """None: the process has ended."""
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        try:
            sink.write(len(frame).to_bytes(8, "big") + frame)
            await sink.drain()
            length = int.from_bytes(await source.readexactly(8), "big")
            return await source.readexactly(length) if length <= MAX_REPLY_BYTES else None
        except (OSError, RuntimeError, asyncio.IncompleteReadError):  # uvloop's word for a pipe that is closed
            return None

    async def kill(self) -> None:
        """Together with all that it has started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
        await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio waits for the other ends of its pipes


def serve() -> None:
    """What runs in the process: jobs from standard input, until it is closed."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no reply
    _limit_memory()
    while (frame := _read(sys.stdin.buffer)) is not None:
        job, arguments, cpu_s = json.loads(frame)
        _limit_time(cpu_s)
        reply = json.dumps(_outcome(job, arguments)).encode()
        out.write(len(reply).to_bytes(8, "big") + reply)
        out.flush()


def _outcome(job: str, arguments: list[Any]) -> dict[str, Any]:
    try:
        module, _, name = job.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        result = function(*arguments)
        return {"result": asyncio.run(result) if iscoroutine(result) else result}
    except MemoryError:
        os._exit(1)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _read(source: BinaryIO) -> bytes | None:
    """None: nobody wants anything any more."""
    if os.name == "posix" and not select.select([source], [], [], IDLE_S)[0]:
        return None
    length = source.read(8)
    return source.read(int.from_bytes(length, "big")) if len(length) == 8 else None


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(ValueError, OSError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _limit_time(cpu_s: int) -> None:
    """The kernel ends the process after so much more processor time, whether its parent lives or not."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + cpu_s), most))
