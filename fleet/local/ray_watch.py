"""Watches the parts of a local Ray, and ends them: `python -m fleet.local.ray_watch DATA_DIR ADDRESS PID...`.

`fleet.local.ray_head` becomes this program once it has started them: the parts remain its children. What is imported to
start Ray takes 70 MB, and is not needed to wait for a signal. So nothing is imported here that waiting does not need.

A control service that is told to end closes its port, and then hangs (Ray 2.60): no signal comes, and a minute later
all that needs it ends. So whether the port is open is looked at, too.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

SIGNALS = frozenset({signal.SIGCHLD, signal.SIGALRM, signal.SIGINT, signal.SIGTERM})
"""Blocked, from before the parts could end: a signal waits until it is asked for."""
DRAINED_WITHIN_S = 10.0
"""A little more than a worker gives its calls."""
PART_ENDS_WITHIN_S = 1.0
PORT_EVERY_S, CONNECTED_WITHIN_S = 5.0, 1.0
_LOOK_EVERY_S = 0.01


def main(data_dir: str, address: str, *parts: str) -> None:
    """Prints the address. Returns after SIGINT or SIGTERM, when the workers are drained and the parts have ended."""
    from setproctitle import setproctitle

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    setproctitle("fleet-ray")
    print(address, flush=True)
    running = [int(part) for part in parts]
    signal.setitimer(signal.ITIMER_REAL, PORT_EVERY_S, PORT_EVERY_S)
    while True:
        died = not _ended().isdisjoint(running)
        if died or _is_closed(address):
            sys.stderr.write("a part of Ray has died\n" if died else "Ray's control service listens no more\n")
            sys.stderr.flush()
            _end_remains(Path(data_dir))
            sys.exit(1)
        if signal.sigwait(SIGNALS) not in (signal.SIGCHLD, signal.SIGALRM):
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


def _is_closed(address: str) -> bool:
    """Whether nobody listens there. One that is slow, or stopped, does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECTED_WITHIN_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


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
