"""Defines the Ray actor that runs one worker, with the methods that a dispatcher calls."""

import os
import signal
import sys
import threading
import time
from typing import Any

import ray

from fleet.config import Settings
from fleet.own_secrets import with_own_secrets
from workers.ray_pool.launcher_generations import Generation
from workers.ray_pool.names import LEAVE, LOCAL_RAY

METHODS = 3
"""Version of what a dispatcher calls in an actor: those with another one are replaced."""
WATCHER_GONE_AFTER_S = 15.0
EXIT_FAILED = 1
FORSAKEN_AFTER_S = 15.0
LEAVE_WITHIN_S = 8.0
"""For calls that are open when the node begins to drain; less than Ray gives the node."""


@ray.remote(max_restarts=-1, max_task_retries=0)
class WorkerActor:
    """Runs one `AgentWorker`. Ray runs its methods one after the other, on the main thread of the process."""

    def __init__(self, name: str, fingerprint: str, launched_by: Generation, settings: Settings) -> None:
        from fleet.observability.logs import configure_logging
        from workers.ray_pool.node_drain import watch
        from workers.ray_pool.shared_pause import SharedPause
        from workers.ray_pool.stderr_lines import StderrLines
        from workers.ray_pool.worker_thread import WorkerThread

        sys.stderr = self._lines = StderrLines(sys.stderr)
        configure_logging("worker")
        # The node supplies credentials: a worker may publish what a dispatcher may not, and need not know its secrets.
        own_settings = with_own_secrets(settings, os.environ)
        # Ray starts the process again; it would not if the actor ended by Ray's own means.
        self._thread = WorkerThread(own_settings, name, on_failure=lambda: os._exit(EXIT_FAILED))
        self._fingerprint = fingerprint
        self._launched_by = launched_by
        self._pause = SharedPause(WATCHER_GONE_AFTER_S)
        if LOCAL_RAY not in os.environ:  # nobody drains that one: it says so by the signal
            watch(self._leave)
        # Ray would end the process by and by at SIGTERM, while the worker took further calls.
        for told in (LEAVE, signal.SIGTERM):
            # On a thread of its own: the main thread may hold a lock where the signal stops it.
            signal.signal(told, lambda *_: threading.Thread(target=self._leave, name="leave", daemon=True).start())

    def probe(self) -> dict[str, Any]:
        """Starts the worker if it is not running (the actor is new, or Ray has started it again); says how it is."""
        status = self._thread.status()
        return {
            "pid": os.getpid(),
            "fingerprint": self._fingerprint,
            "launched_by": self._launched_by,
            **{field: getattr(status, field) for field in status.__struct_fields__},
        }

    def probe_after(self, pause_s: float, watcher: str) -> dict[str, Any]:
        """`probe`, after a pause that all watchers share.

        A pause here and not there: Ray wakes a main thread that has nothing to run a hundred times a second, which
        costs more than everything else that a worker does at rest.
        """
        time.sleep(self._pause.share_s(watcher, pause_s, time.monotonic()))
        return {**self.probe(), "lines": self._lines.new_for(watcher)}

    def retire(self, retired: bool) -> int:
        """Takes nothing new from now on, or takes calls again; returns how many are open."""
        return self._thread.retire(retired)

    def _leave(self) -> None:
        """This process, or its node, is about to end: Ray starts the actor again."""
        self._thread.end(LEAVE_WITHIN_S)
        os._exit(EXIT_FAILED)

    def drain(self, grace_s: float) -> None:
        """Takes nothing new, finishes or hands back what is open. Whoever asks ends this actor next; if it dies before,
        Ray starts it again."""
        forsaken = threading.Timer(grace_s + FORSAKEN_AFTER_S, os._exit, (EXIT_FAILED,))
        forsaken.daemon = True
        forsaken.start()
        self._thread.end(grace_s)
