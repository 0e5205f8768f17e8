"""Runs child processes: waits until each is ready, starts it again when it dies, and ends it with all it has started.

Every child leads a process group of its own, so that a terminal's Ctrl-C reaches the supervisor alone, and on Linux
the kernel kills it when the supervisor dies, however that happens.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from fleet.errors import FleetError
from fleet.observability.visible import visible

log = structlog.get_logger(__name__)

READY_WITHIN_S = 180.0
"""A busy machine takes a minute or two for what takes seconds otherwise. A child that ends is not waited for."""
SLOW_AFTER_S = 20.0
"""Then the log says what is waited for."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
STEADY_AFTER_S = 30.0
"""A child that lived this long is restarted at once again, whatever happened before."""
KILLED_WITHIN_S = 5.0


class ChildFailed(FleetError):
    """A child ended, or stayed silent, before it was ready."""


async def first_line(process: Process) -> str:
    """Ready is what prints a line on standard output; the line is the answer. Raises `ChildFailed` at its end."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if text := line.decode(errors="replace").strip():
            return text
    raise ChildFailed(f"ended with status {await process.wait()} before it was ready")


class Child:
    """One process. `command` and `environ` are asked before every start, `ready` answers with what it said then.

    `waits`: started again, it may take however long for what it needs to come back. `log_file` takes its standard
    error; without one it goes where ours goes. `on_restart` is told after each restart, `on_line` what it prints once
    it is ready: our standard output belongs to the one who started us. `reads`: it is told things by `tell`.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        ready: Callable[[Process], Awaitable[str]] = first_line,
        environ: Callable[[], Mapping[str, str]] = lambda: os.environ,
        log_file: Path | None = None,
        waits: bool = False,
        on_restart: Callable[[], None] = lambda: None,
        on_line: Callable[[str], object] = lambda line: sys.stderr.write(visible(line)),
        reads: bool = False,
    ) -> None:
        self.name = name
        self._command = command
        self._ready = ready
        self._environ = environ
        self._log_file = log_file
        self._waits = waits
        self._on_restart = on_restart
        self._on_line = on_line
        self._reads = reads
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, or ran last; None before the first start."""
        return self._process.pid if self._process else None

    async def start(self) -> str:
        """Returns what it said when ready; from then on it is kept running. Raises `ChildFailed`."""
        ready_line = await self._launch(READY_WITHIN_S)
        self._keeper = asyncio.create_task(self._keep())
        return ready_line

    async def defect(self) -> None:
        """Waits until supervising fails by a defect, which it raises: the child would not be started again."""
        assert self._keeper is not None
        await asyncio.shield(self._keeper)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL to its whole group after `grace_s`. May be called at any time, and again."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._process is not None:
            await _end(self.name, self._process, grace_s)
        if self._drain is not None:
            self._drain.cancel()

    async def restart(self, grace_s: float) -> None:
        """Ends it as `stop` does; its keeper starts it again."""
        if self._process is not None:
            await _end(self.name, self._process, grace_s)

    def tell(self, line: str) -> None:
        """On its standard input, if it runs."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(f"{line}\n".encode())

    def kill(self) -> None:
        """At once, without waiting for anything."""
        if self._process is not None:
            _kill_group(self._process.pid)

    async def _launch(self, within_s: float | None) -> str:
        log_to = self._log_file.open("ab") if self._log_file else None
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=PIPE if self._reads else DEVNULL,
                stdout=PIPE,
                stderr=log_to,
                env=dict(self._environ()),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
            )
        finally:
            if log_to is not None:
                log_to.close()
        slow = asyncio.get_running_loop().call_later(SLOW_AFTER_S, self._note_slow)
        try:
            async with asyncio.timeout(within_s):
                ready_line = await self._ready(process)
        except TimeoutError:
            await _end(self.name, process, 0)
            raise ChildFailed(self._explain(f"was not ready after {within_s:.0f} s")) from None
        except ChildFailed as error:
            await _end(self.name, process, 0)
            raise ChildFailed(self._explain(str(error))) from None
        finally:
            slow.cancel()
        self._drain = asyncio.create_task(self._forward(process))
        log.info("child.ready", child=self.name, pid=process.pid)
        return ready_line

    def _note_slow(self) -> None:
        log.warning("child.slow", child=self.name, waited_s=SLOW_AFTER_S, gives_up_after_s=READY_WITHIN_S)

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            assert self._process is not None
            since = time.monotonic()
            status = await self._process.wait()
            _kill_group(self._process.pid)  # what it may have left behind
            if time.monotonic() - since > STEADY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            log.warning("child.died", child=self.name, pid=self.pid, status=status, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._launch(None if self._waits else READY_WITHIN_S)
                self._on_restart()
            except (FleetError, OSError) as error:
                log.warning("child.restart_failed", child=self.name, error=str(error))

    async def _forward(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._on_line(line.decode(errors="replace"))

    def _explain(self, problem: str) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines()[-5:] if self._log_file else []
        last = "".join(f"\n  {line}" for line in lines)
        return f"{self.name} {problem}{f', its log {self._log_file} ends:{last}' if last else ''}"


async def _end(name: str, process: Process, grace_s: float) -> None:
    if process.returncode is None and grace_s > 0:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("child.killed", child=name, pid=process.pid, after_s=grace_s)
    _kill_group(process.pid)
    with suppress(TimeoutError):
        async with asyncio.timeout(KILLED_WITHIN_S):
            await process.wait()


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _die_with(parent: int) -> Callable[[], None]:
    """For the forked child: SIGKILL as soon as `parent` is gone. The library is loaded here, before the fork."""
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1

    def arrange() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange
