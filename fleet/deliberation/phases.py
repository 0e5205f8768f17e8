"""Decides which phase comes next. A phase without calls is skipped.

    propose ─▶ ( critique ─▶ revise ) × rounds ─▶ score or vote? ─▶ compare? ─▶ choose?
            ─▶ ( synthesise ─▶ compare )? ─▶ completed

`options.gate` may end everything with a critique, `stopping` the rounds; a spent token budget ends everything.
`second_reading` may ask for scores twice, `compare` is for ties, `choose` for `selection: architect`, `synthesise` for
`options.synthesis`. `selection: checks` asks nobody for scores or votes.
"""

from typing import assert_never

from fleet.deliberation.asking import calls
from fleet.deliberation.conclusion import complete_partial
from fleet.deliberation.rating.judging import round_standings, standings
from fleet.deliberation.rating.second_reading import second_orders
from fleet.deliberation.state import Deliberation, PhaseRecord
from fleet.deliberation.stopping import over_budget, reason_to_stop, settled
from fleet.messages import Phase, SelectionMethod, StopReason


def advance(state: Deliberation, at_ms: int) -> Deliberation:
    """Moves on while the current phase has no open call."""
    while not state.ended and "open" not in state.calls.values():
        state = _next(state, at_ms)
    return state


def enter(state: Deliberation, phase: Phase, round_: int, at_ms: int) -> Deliberation:
    """The state at the beginning of a phase, all its calls open."""
    record = PhaseRecord(phase=phase, round=round_, began_ms=at_ms)
    entered = state.change(phase=phase, round=round_, phases=(*state.phases, record))
    return entered.change(calls=dict.fromkeys(calls(entered), "open"))


def _next(state: Deliberation, at_ms: int) -> Deliberation:
    if len(state.candidates) < 2:
        # Alone there is nobody to review or to compare with; with nobody left it has failed.
        return complete_partial(state, at_ms)
    state, phase = _following(state, at_ms)
    if phase is None:
        return complete_partial(state, at_ms)
    if over_budget(state):
        spent = f"{state.usage.total} of {state.task.max_total_tokens} tokens were used before {phase}"
        return complete_partial(_stopped(state, "token_budget", spent).change(cut_short=True), at_ms)
    return enter(state, phase, state.round + 1 if phase == "critique" else state.round, at_ms)


def _following(state: Deliberation, at_ms: int) -> tuple[Deliberation, Phase | None]:
    """The state as the phase that has ended leaves it, and the next phase; None after the last one."""
    task = state.task
    synthesise: Phase | None = "synthesise" if task.synthesis else None
    match state.phase:
        case "propose":
            return state, "critique" if task.rounds else _judge(task.selection) or synthesise
        case "critique":
            if sentence := _verdict_of_critiques(state):
                settled_state = state.change(verdict_round=state.round)
                stopped = _stopped(settled_state, "leader_settled", sentence)
                chooses = task.selection == "architect" and _asks(stopped, "choose")
                return stopped, "choose" if chooses else synthesise
            return state, "revise"
        case "revise":
            state = state.change(rounds_run=state.round)
            stop = _reason_to_stop(state, at_ms)
            return (_stopped(state, *stop), _judge(task.selection) or synthesise) if stop else (state, "critique")
        case "score" if state.reading == 1 and (orders := second_orders(state)):
            return state.change(reading=2, second_orders=orders), "score"
        case "score" | "vote" if task.selection != "architect" and _asks(state, "compare"):
            return state, "compare"
        case "score" | "vote" if task.selection == "architect" and _asks(state, "choose"):
            return state, "choose"
        case "compare" if state.synthesis is not None:
            return state, None
        case "score" | "vote" | "compare" | "choose":
            return state, synthesise
        case "synthesise":
            return state, "compare" if state.synthesis is not None and _asks(state, "compare") else None
        case _:
            assert_never(state.phase)


def _verdict_of_critiques(state: Deliberation) -> str | None:
    """Under `options.gate`: why this round's critiques need no further call; None: go on.

    Critics say nothing of requirements, so where there are any the scores must.
    """
    task = state.task
    if not task.gate or task.requirements or task.selection not in ("score", "architect"):
        return None
    return settled(standings(state.change(verdict_round=state.round)))


def _judge(selection: SelectionMethod) -> Phase | None:
    """The phase in which reviewers say what is best; None where nobody is asked."""
    match selection:
        case "score" | "architect":
            return "score"
        case "vote":
            return "vote"
        case "checks":
            return None
        case _:
            assert_never(selection)


def _reason_to_stop(state: Deliberation, at_ms: int) -> tuple[StopReason, str] | None:
    """Why the round that has just ended is the last one; None: go on."""
    if state.round == state.task.rounds:
        return "all_rounds", "every round that was asked for was run"
    return reason_to_stop(state, round_standings(state, state.round), at_ms)


def _asks(state: Deliberation, phase: Phase) -> bool:
    return bool(calls(state.change(phase=phase)))


def _stopped(state: Deliberation, reason: StopReason, explanation: str) -> Deliberation:
    return state.change(stop_reason=reason, stop_explanation=explanation)
