"""Puts a result into words: who comes first and by what, how sure that is, what was found."""

from collections.abc import Iterator

from fleet.messages import DeliberationCompleted


def first(event: DeliberationCompleted) -> str:
    """Who comes first, and by what: without a verdict that is an order, and no judgement."""
    agent = event.ranked[0].agent_id
    if len(event.ranked) == 1:
        return f"{agent}, the only proposal"
    if event.selection is not None and event.selection.chosen == agent:
        return f"{agent}, chosen by {event.selection.chooser_id}"
    match event.ranking.method:
        case "vote":
            return f"{agent}, first by its peers' votes"
        case "checks":
            return f"{agent}, first by the checks of its text"
    if event.ranked[0].score is None:
        return f"{agent}, first in order only: nobody scored the proposals"
    return f"{agent}, first by its peers' scores"


def account(event: DeliberationCompleted) -> Iterator[str]:
    """Whose result it is, how sure the verdict is, what decided it, why the rounds ended, which checks failed."""
    if event.cached_from is not None:
        yield f"this is the result of {event.cached_from}, an equal request: no model was called"
    if event.margin is not None:
        unit = count(round(event.margin, 2), "vote" if event.ranking.method == "vote" else "point")
        tied = f", after a tie decided by {event.ranking.decided_by}" if event.ranking.tied else ""
        best = event.ranked[0].p_best
        agreed = f" · the best with a probability of {best:.0%}" if best is not None else ""
        yield f"{unit} ahead of the second{tied}{agreed}"
    if event.selection is not None:
        chosen = "contradicted itself" if event.selection.contradicted else "gave no answer"
        if event.selection.chosen is not None:
            chosen = f"chose {event.selection.chosen}"
        yield f"{event.selection.chooser_id} {chosen}"
    if event.stop_reason not in (None, "all_rounds"):
        yield f"stopped after {count(event.rounds_run, 'round')}: {event.stop_explanation}"
    for result in event.ranked:
        for name, check in result.checks.items():
            if check.status == "failed":
                yield f"{result.agent_id}: {name} failed: {'; '.join(check.findings)}"


def count(number: float, noun: str) -> str:
    """`1 round`, `2 rounds`, `0.5 points`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
