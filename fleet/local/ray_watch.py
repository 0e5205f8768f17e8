"""Watches the parts of a local Ray, and ends them: `python -m fleet.local.ray_watch DATA_DIR ADDRESS PID...`.

`fleet.local.ray_head` becomes this program once it has started them: the parts remain its children. What is imported to
start Ray takes 70 MB, and is not needed to wait for a signal. So nothing is imported here that waiting does not need.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

SIGNALS = frozenset({signal.SIGCHLD, signal.SIGINT, signal.SIGTERM})
"""Blocked, from before the parts could end: a signal waits until it is asked for."""
DRAINED_WITHIN_S = 10.0
"""A little more than a worker gives its calls."""
PART_ENDS_WITHIN_S = 1.0
_LOOK_EVERY_S = 0.01


def main(data_dir: str, address: str, *parts: str) -> None:
    """Prints the address. Returns after SIGINT or SIGTERM, when the workers are drained and the parts have ended."""
    from setproctitle import setproctitle

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    setproctitle("fleet-ray")
    print(address, flush=True)
    running = [int(part) for part in parts]
    while True:
        if not _ended().isdisjoint(running):
            sys.stderr.write("a part of Ray has died\n")
            sys.stderr.flush()
            _end_remains(Path(data_dir))
            sys.exit(1)
        if signal.sigwait(SIGNALS) != signal.SIGCHLD:
            break
    _drain_workers(Path(data_dir))
    for part in reversed(running):  # the raylet, started last, tells the control service that it ends
        _end(part)


def _ended() -> set[int]:
    """Children that have ended since this was asked last."""
    ended: set[int] = set()
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)
    return ended


def _end_remains(data_dir: Path) -> None:
    from fleet.local.ray_remains import end_remains

    end_remains(data_dir)


def _drain_workers(data_dir: Path) -> None:
    from fleet.local.ray_remains import drain_workers

    drain_workers(data_dir, DRAINED_WITHIN_S)


def _end(pid: int) -> None:
    """SIGTERM, and SIGKILL when it takes too long."""
    with suppress(ChildProcessError, ProcessLookupError):  # it has ended already
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + PART_ENDS_WITHIN_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
