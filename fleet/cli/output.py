"""Writes the commands' output: for a person with `say` and `console`, for a program with `print_json`."""

import os
import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from fleet.observability.visible import json_text, to_json, visible

NOT_CUT = 10_000
"""Columns of what is no terminal."""


class ReaderGone(Exception):
    """Whoever read our output has left. No `OSError`: it is nobody's fault, and not a server's."""


class PeopleConsole(Console):
    """A console on which text is text: controls in it are visible, and `:name:` is no picture."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's own movements of the cursor are segments of another kind."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Rich would exit with 1."""
        raise ReaderGone from None


def console(*, stderr: bool = False, **more: Any) -> Console:
    """All that people read comes from one of these."""
    return PeopleConsole(stderr=stderr, emoji=False, **more)


def wide_console() -> Console:
    """For tables: as wide as the terminal, and where there is none, wide enough for every line."""
    terminal = console(highlight=False)
    return terminal if terminal.is_terminal else console(highlight=False, width=NOT_CUT)


def literal(text: str) -> str:
    """For a place where markup is read: `text` as it is."""
    return escape(visible(text))


def say(text: str, *, stderr: bool = False) -> None:
    """One text, as it is, without wrapping or colours."""
    _write(visible(text), sys.stderr if stderr else sys.stdout)


def own_name() -> str:
    """What somebody types who runs this program from here: `fleet` may not be on their PATH."""
    return "fleet" if shutil.which("fleet") else os.path.relpath(sys.argv[0])


def print_json(value: Any) -> None:
    """One line. Bytes are JSON already, and are not read."""
    _write(json_text(value) if isinstance(value, bytes) else to_json(value), sys.stdout)


def _write(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None
