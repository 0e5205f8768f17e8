"""What anybody wrote, as people and programs get it."""

import io
import json
import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fleet.cli.output import PeopleConsole, literal
from fleet.observability.visible import json_text, to_json, visible

CONTROLS = ["\x1b]0;title\x07", "\x1b]52;c;cm0=\x07", "\x1b[2J", "\x1b[8mhidden\x1b[0m", "\x9b2J", "\x9d0;t\x9c"]
TURNING = ["\u202e", "\u2066", "\u2069", "\u200f", "\u061c", "\U000e0041", "\u2028"]
ATTACKS = st.sampled_from([*CONTROLS, *TURNING, "\r", "\b", "\x7f", "[red]", ":smile:", "\ud800"])
TEXTS = st.lists(st.one_of(st.text(max_size=20), ATTACKS), max_size=8).map("".join)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def controls_in(text: str) -> list[str]:
    """By what Unicode says of each, not by the list in the code."""
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    marks = "\u061c\u200e\u200f\u2028\u2029"
    return [
        char
        for char in text
        if (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t")
        or unicodedata.bidirectional(char) in turning
        or char in marks
        or 0xE0000 <= ord(char) <= 0xE007F
    ]


@given(TEXTS)
def test_nothing_that_people_read_controls_the_terminal(text: str) -> None:
    """And what holds no control is as it was."""
    assert controls_in(visible(text)) == []
    if not controls_in(text):
        assert visible(text) == text
    assert visible(visible(text)) == visible(text)


@given(TEXTS)
def test_json_is_exact_and_without_controls(text: str) -> None:
    """Whoever made it, msgspec or Python."""
    for line in (to_json({"a": text}), json_text(json.dumps({"a": text}, ensure_ascii=False))):
        assert json.loads(line) == {"a": text}
        assert controls_in(line) == []
        assert "\n" not in line


@given(TEXTS)
def test_a_console_shows_text_as_it_is(text: str) -> None:
    """Through every way in, those that interpret markup too."""
    for terminal in (True, False):
        out = io.StringIO()
        console: Console = PeopleConsole(file=out, force_terminal=terminal, emoji=False, width=200)
        console.print(text, markup=False, soft_wrap=True)
        console.print(f"[bold]{literal(text)}[/bold]", soft_wrap=True)
        assert controls_in(COLOURS.sub("", out.getvalue())) == []


def test_escapes_are_named() -> None:
    """By their code, so that nothing is lost."""
    assert visible("a\x1b[2J\x9b\u202eb\r\nc\td") == "a\\x1b[2J\\x9b‹U+202E›b\nc\td"
