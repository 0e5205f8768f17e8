"""Runs a foreign server as a process of its own, with all that it starts."""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

STOP_WITHIN_S = 20
LOG_TAIL_LINES = 60


@contextmanager
def served(
    command: Sequence[str | Path], healthy: str, log: Path, *, within_s: float, cwd: Path | None = None, **environ: str
) -> Iterator[None]:
    """Until the end of the block, which begins once `healthy`, a URL, answers 200. The test fails with the end of the
    log where that takes longer than `within_s`, or the server ends before."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it may start others: the group is ended as one
        )
    try:
        _until_healthy(healthy, server, log, within_s)
        yield
    finally:
        _end_group(server)


def _until_healthy(url: str, server: subprocess.Popen[bytes], log: Path, within_s: float) -> None:
    try:
        wait_until(lambda: server.poll() is not None or _answers(url), within_s, pause_s=0.2)
    except TimeoutError:
        pytest.fail(f"{url} did not answer within {within_s} s\n{_tail(log)}")
    if server.returncode is not None:
        pytest.fail(f"it ended with status {server.returncode} before {url} answered\n{_tail(log)}")


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM to every process of the server's group, SIGKILL to those that outlast the deadline."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, ending)
        except ProcessLookupError:
            break
        with suppress(TimeoutError):
            wait_until(lambda: not _group_exists(server), STOP_WITHIN_S)
    server.wait(STOP_WITHIN_S)


def _group_exists(server: subprocess.Popen[bytes]) -> bool:
    server.poll()  # a leader that has ended stays in the group until it is waited for
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
