"""Where the commands write: for a person with `say` and `console`, for a program with `print_json`."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from fleet.observability.visible import json_text, to_json, visible


class PeopleConsole(Console):
    """A console on which text is text: controls in it are visible, and `:name:` is no picture."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's own movements of the cursor are segments of another kind."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def console(*, stderr: bool = False, **more: Any) -> Console:
    """All that people read comes from one of these."""
    return PeopleConsole(stderr=stderr, emoji=False, **more)


def literal(text: str) -> str:
    """For a place where markup is read: `text` as it is."""
    return escape(visible(text))


def say(text: str, *, stderr: bool = False) -> None:
    """One text, as it is, without wrapping or colours."""
    print(visible(text), file=sys.stderr if stderr else sys.stdout, flush=True)


def print_json(value: Any) -> None:
    """One line. Bytes are JSON already, and are not read."""
    print(json_text(value) if isinstance(value, bytes) else to_json(value), flush=True)
