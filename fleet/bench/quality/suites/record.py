"""Keeps what was played in a file, line by line, so that a run that was interrupted goes on where it stood."""

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from fleet.errors import ConfigError


class Head(Struct, frozen=True, kw_only=True):
    """The first line: what a run must share with the one that it goes on with. `judges`: of the settings; `agents`:
    average, by strategy.
    """

    suite: str
    sha256: str
    seed: int
    max_tokens: int
    agents: dict[str, float]
    judges: list[str] = []


class Line(Struct, frozen=True, kw_only=True):
    """One play. `verdicts`: by way, the share of the win that the right text has, and tokens."""

    play: str
    item: str
    agents: int
    rounds: int
    verdicts: dict[str, tuple[float, int]]
    models: tuple[str, ...] = ()
    failed: dict[str, int] = {}


class Record:
    """`head` None: the file is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.head: Head | None = None
        self.lines: dict[tuple[str, str], Line] = {}
        if path.exists():
            self._read()

    def begin(self, head: Head) -> None:
        self.head = head
        self._append(head)

    def add(self, line: Line) -> None:
        self.lines[line.play, line.item] = line
        self._append(line)

    def goes_on_with(self, **facts: Any) -> None:
        """Raises `ConfigError` where the file is of another run."""
        told = msgspec.to_builtins(self.head)
        for name, value in facts.items():
            if told[name] != value:
                raise ConfigError(f"{self._path} is of another run: {name} was {told[name]}, and is {value} now")

    def _read(self) -> None:
        head, *lines = self._path.read_bytes().split(b"\n")
        try:
            self.head = msgspec.json.decode(head, type=Head) if head else None
            for line in lines[:-1]:
                read = msgspec.json.decode(line, type=Line)
                self.lines[read.play, read.item] = read
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._path} is no record of a suite: {error}") from None
        if lines and lines[-1]:  # of a run that was killed while it wrote
            with self._path.open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - len(lines[-1]))

    def _append(self, what: Struct) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(what) + b"\n")
