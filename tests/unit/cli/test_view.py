"""What a person sees of a deliberation."""

import io

import pytest
from msgspec import structs

from fleet.cli.output import PeopleConsole
from fleet.cli.view import Board, Usual, show_outcome
from fleet.messages import DeliberationCompleted
from tests.support.agents import failure
from tests.support.council import completed
from tests.unit.observability.test_visible import COLOURS, controls_in

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b8mhidden\u202etxt\r [link=http://evil]x[/link] :bomb:"


def shown(event: DeliberationCompleted, text: str, *, terminal: bool = False) -> str:
    out = io.StringIO()
    show_outcome(PeopleConsole(file=out, force_terminal=terminal, emoji=False, width=120), event, text)
    return COLOURS.sub("", out.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_hostile_outcome_is_shown_as_text(terminal: bool) -> None:
    """In the proposal, in a model's name, in an error, in a role."""
    event, _ = completed()
    winner = event.results[0]
    proposal = structs.replace(winner.proposal, model=HOSTILE)
    event = structs.replace(
        event, results=[structs.replace(winner, agent_id=HOSTILE, proposal=proposal)], missing=[HOSTILE], degraded=True
    )
    told = shown(event, HOSTILE, terminal=terminal)
    assert controls_in(told) == []
    assert "\\x1b[2J" in told
    assert "[link=http://evil]x[/link] :bomb:" in told


def test_a_hostile_error_is_shown_as_text() -> None:
    """While the agents work, on and off a terminal."""
    _, calls = completed()
    failed = structs.replace(failure(calls[0]), error=HOSTILE)
    out = io.StringIO()
    Board(PeopleConsole(file=out, emoji=False)).on_event(failed)
    assert controls_in(out.getvalue()) == []


def test_json_is_not_read_as_prose() -> None:
    """Its asterisks and line ends stay."""
    event, _ = completed()
    assert '"glob": "*.py *.md"' in shown(event, '{\n  "glob": "*.py *.md"\n}', terminal=True)


def test_who_comes_first_is_said_by_what() -> None:
    """An order that nobody judged is not called a verdict."""
    event, _ = completed()
    assert "first by its peers' scores" in shown(event, "text")
    assert "ahead of the second · the best with a probability of " in shown(event, "text")
    unscored = [structs.replace(result, score=None) for result in event.results]
    assert "nobody scored" in shown(structs.replace(event, results=unscored), "text")
    assert "the only proposal" in shown(structs.replace(event, results=unscored[:1]), "text")
    assert not any(word in shown(event, "text") for word in ("wins", "confidence"))


def test_bars_move_by_what_such_calls_take() -> None:
    """Never back, never full before the end, and far along at the usual length, whatever `max_tokens` is."""
    usual = Usual()
    percents = [usual.percent("propose", tokens) for tokens in range(0, 5000, 50)]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 99)
    usual.note("propose", 1000)
    assert usual.percent("propose", 1000) == usual.percent("revise", 1000) == 80
    assert usual.percent("critique", 1000) > 80
