"""Asks a fleet one question after the other, by the real `fleet ask`, while something is done to it."""

import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from tests.support.client import ends

ASKED_WITHIN_S = 300

COUNT_ENDS = Path(ends.__file__).read_text()
"""A program that prints how many terminal events the stream holds of each task."""


class Asking:
    """Inside it, questions are asked without a pause. `ask` runs `fleet ask --json` with the question."""

    def __init__(self, ask: Callable[[str], subprocess.CompletedProcess[str]], at_once: int = 2) -> None:
        self.answered: list[str] = []
        self.lost: list[str] = []
        self._ask = ask
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(at_once)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What has been asked is waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self, counted: Mapping[str, int]) -> None:
        """Something was answered, nothing was lost, and of each task there is one terminal event."""
        assert not self.lost, self.lost
        each = {task: counted.get(task) for task in self.answered}
        assert set(each.values()) == {1}, each

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            done = self._ask(f"Design rate limiter {number}.{len(self.answered)}")
            if done.returncode == 0:
                self.answered.append(json.loads(done.stdout)["task_id"])
            else:
                self.lost.append(f"exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
                return
