"""Keeps what a worker writes to its standard error for whoever launched it: Ray puts it into a file on that node."""

import threading
from collections import deque
from collections.abc import Iterable
from typing import TextIO

KEPT_LINES = 1000
LONGEST_LINE = 8192
WATCHERS = 32


class StderrLines:
    """A text stream that passes everything on to `stream`, and tells each watcher once what is new."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._written = 0
        self._rest = ""
        self._told: dict[str, int] = {}
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        self._stream.write(text)
        with self._lock:
            *whole, rest = (self._rest + text).split("\n")
            self._rest = rest[-LONGEST_LINE:]
            self._lines.extend(line[:LONGEST_LINE] for line in whole)
            self._written += len(whole)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def new_for(self, watcher: str) -> list[str]:
        """Lines since this watcher asked last; the first that asks gets what was written before, others do not."""
        with self._lock:
            since = self._told.pop(watcher, self._written if self._told else 0)
            self._told[watcher] = self._written
            while len(self._told) > WATCHERS:
                del self._told[next(iter(self._told))]
            count = self._written - since
            lines = list(self._lines)[max(0, len(self._lines) - count) :] if count else []
        missed = count - len(lines)
        return [f"({missed} lines of this worker were left out)", *lines] if missed else lines
