"""Shows a deliberation on a terminal: each agent's call, the ranking, the winning text."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import get_args

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fleet.cli.output import literal
from fleet.cli.verdict import account, count, first
from fleet.client.session import CallEvent
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentProgress,
    DeliberationCancelled,
    DeliberationCompleted,
    Phase,
    TerminalEvent,
    status_of,
)
from fleet.observability.visible import visible

FRAMES_PER_S = 10
KEPT_CHARACTERS = 400
BAR_WIDTH = 16


@dataclass(slots=True)
class _Row:
    """The latest call of an agent, or of its further questions."""

    call: tuple[int, str, int]
    phase: str
    started: float
    percent: int = 0
    tokens: int = 0
    text: str = ""
    error: str | None = None
    done: bool = False


class Usual:
    """How long answers of a phase usually are: as those that have ended, at first as `FIRST_GUESS` says."""

    FIRST_GUESS = 300
    AT_THE_USUAL_LENGTH = 0.8
    """What the bar shows then; one that goes on gets slower, and never arrives before its end."""

    def __init__(self) -> None:
        self._tokens: dict[str, list[int]] = {}

    def note(self, phase: str, tokens: int) -> None:
        """A call of this phase has ended."""
        if tokens > 0:
            self._tokens.setdefault(phase, []).append(tokens)

    def percent(self, phase: str, tokens: int) -> int:
        """Of an answer that is being written."""
        usual = median(self._tokens.get(phase) or self._tokens.get(_LIKE.get(phase, ""), [self.FIRST_GUESS]))
        missing: float = (1 - self.AT_THE_USUAL_LENGTH) ** (tokens / usual)
        return min(99, round(100 * (1 - missing)))


_LIKE = {"revise": "propose", "score": "critique"}


class Board:
    """Live progress per agent. Off a terminal each call that ends becomes a line instead."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._usual = Usual()
        self._since = time.monotonic()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Drawn inside, and gone afterwards: the ranking takes its place."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=FRAMES_PER_S, transient=True):
            yield

    def on_event(self, event: CallEvent) -> None:
        """Takes what an agent reports."""
        call = (event.round, event.phase, event.attempt)
        row = self._rows.get(event.slot)
        if row is None or row.call != call:
            if row is not None and _order(call) < _order(row.call):
                return  # late news of an earlier call
            row = self._rows[event.slot] = _Row(call, describe(event), time.monotonic())
        match event:
            case AgentProgress():
                row.percent = max(row.percent, self._usual.percent(event.phase, event.tokens))
                row.tokens = event.tokens
                row.text = (row.text + event.text_delta)[-KEPT_CHARACTERS:]
            case AgentCompleted():
                row.percent, row.done = 100, True
                row.tokens = event.usage.completion_tokens or row.tokens
                self._usual.note(event.phase, row.tokens)
                self._line(f"{event.slot}  {row.phase}  done, {row.tokens} tokens, {event.duration_ms / 1000:.1f} s")
            case AgentFailed():
                row.done, row.error = True, event.error
                self._line(f"{event.slot}  {row.phase}  failed: {event.error}")

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        elapsed = time.monotonic() - self._since
        if not self._rows:
            return Spinner("dots", Text(f"waiting for the agents … {elapsed:.0f} s", style="dim"))
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for _ in range(4):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
        for slot, row in sorted(self._rows.items()):
            table.add_row(
                _mark(row),
                Text(slot, style="bold"),
                row.phase,
                ProgressBar(total=100, completed=row.percent, width=BAR_WIDTH),
                f"{row.tokens} tok",
                Text(visible(row.error), style="red") if row.error else Text(_tail(row.text, self._console.width - 72)),
            )
        return Group(table, Text(f"{elapsed:.0f} s", style="dim"))


def in_round(phase: str, number: int) -> str:
    """The phase, with its round where it has one."""
    return f"{phase} {number}" if phase in ("critique", "revise") else phase


def describe(event: CallEvent) -> str:
    """`critique 2`, and which try it is."""
    name = in_round(event.phase, event.round)
    name = f"{name} on trial" if event.shadow else name
    return f"{name} (try {event.attempt})" if event.attempt > 1 else name


def show_outcome(console: Console, event: TerminalEvent, text: str | None) -> None:
    """The ranked table and the winning text, or why there is none."""
    if not isinstance(event, DeliberationCompleted):
        console.print(_why(event), soft_wrap=True)
        return
    console.print()
    console.print(_ranking(event))
    assert text is not None
    text = visible(text)
    if console.is_terminal:
        title = f"[bold]{literal(first(event))}[/bold]"
        console.print(Panel(_formatted(text), title=title, title_align="left", border_style="green", padding=(1, 2)))
    else:
        heading = visible(first(event))
        console.print(f"\n{heading}:\n\n{text}\n", markup=False, highlight=False, soft_wrap=True)
    if event.synthesis is not None:
        verdict = {True: "judged better than", False: "judged no better than", None: "not compared with"}
        told = f"Merged from the best {len(event.synthesis.sources)}, {verdict[event.synthesis.better]} the first:\n"
        console.print(told, style="bold")
        console.print(visible(event.synthesis.content), markup=False, highlight=False, soft_wrap=True)
        console.print()
    for line in account(event):
        console.print(f"[dim]{literal(line)}[/dim]", highlight=False, soft_wrap=True)
    usage = event.usage
    tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) + usage.estimated_tokens
    told = f"{tokens:,} tokens" + (f", {usage.estimated_tokens:,} of them estimated" if usage.estimated_tokens else "")
    if usage.prompt_tokens and usage.cached_tokens is not None:
        told += f", {usage.cached_tokens / usage.prompt_tokens:.0%} of the prompts from the cache"
    console.print(
        f"[dim]{literal(event.task_id)} · {event.duration_ms / 1000:.1f} s · {count(event.rounds_run, 'round')} · "
        f"{count(usage.calls, 'model call')} · {told}[/dim]",
        highlight=False,
        soft_wrap=True,
    )
    if event.degraded:
        console.print(_degraded(event), soft_wrap=True, highlight=False)


def _formatted(text: str) -> RenderableType:
    """Markdown, but JSON as it is: as prose it would lose its line ends, and what looks like emphasis in it."""
    try:
        json.loads(text)
    except ValueError:
        return Markdown(text, hyperlinks=False)
    return Text(text)


def _ranking(event: DeliberationCompleted) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("agent", no_wrap=True)
    votes = event.ranking.method == "vote"
    table.add_column("votes" if votes else "score", justify="right")
    table.add_column("by", justify="right")
    table.add_column("revised", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("model", overflow="ellipsis", no_wrap=True)
    for result in event.results:
        peers = sum(review.phase == "score" and review.reward is None for review in result.reviews)
        judges = sum(review.reward is not None for review in result.reviews)
        scored = [count(number, what) for number, what in ((peers, "peer"), (judges, "judge")) if number]
        table.add_row(
            "shadow" if result.shadow else str(result.rank),
            literal(result.agent_id),
            str(result.votes or 0) if votes else "–" if result.score is None else f"{result.score:.2f}",
            ", ".join(scored) or "–",
            f"{result.proposal.revisions}×",
            str(result.proposal.tokens),
            literal(result.proposal.model),
            style="bold green" if result.rank == 1 else None,
        )
    return table


def _degraded(event: DeliberationCompleted) -> str:
    lines = [f"  {literal(call.agent_id)} {call.phase}: {literal(call.error)}" for call in event.failed_agents]
    missing = f"; without a proposal: {', '.join(event.missing)}" if event.missing else ""
    return "\n".join([f"[yellow]degraded: not everything asked for happened{literal(missing)}[/yellow]", *lines])


def _why(event: TerminalEvent) -> str:
    seconds = f"after {event.duration_ms / 1000:.1f} s"
    if isinstance(event, DeliberationCancelled):
        return f"[yellow]cancelled[/yellow] {seconds}: {literal(event.reason)}"
    assert not isinstance(event, DeliberationCompleted)
    lines = [f"  {literal(call.agent_id)} {call.phase}: {literal(call.error)}" for call in event.failed_agents]
    return "\n".join([f"[red]{status_of(event)}[/red] {seconds}: {literal(event.error)}", *lines])


def _mark(row: _Row) -> RenderableType:
    if row.error:
        return Text("✗", style="red")
    if row.done:
        return Text("✓", style="green")
    return Text("●●○○"[int((time.monotonic() - row.started) * 4) % 4], style="cyan")


def _order(call: tuple[int, str, int]) -> tuple[int, int, int]:
    number, phase, attempt = call
    # `score` carries the last round's number, and comes after its revisions.
    return number, get_args(Phase).index(phase), attempt


def _tail(text: str, width: int) -> str:
    line = visible(" ".join(text.split()))
    width = max(width, 10)
    return line if len(line) <= width else "…" + line[1 - width :]
