"""Writes the verdict, for a person and for a program."""

from collections import Counter
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from fleet import subjects
from fleet.chaos.history import History, InjectedFault
from fleet.chaos.invariants import Violation, checked, judge
from fleet.chaos.recovery import Recovery, RepeatedCalls, recoveries, repeated

MOST_SHOWN = 5


class Report(Struct, frozen=True, kw_only=True):
    """What `fleet chaos --json` prints."""

    holds: bool
    seed: int
    deliberations: int
    faults: int
    seconds: float
    accepted: int
    rejected: int
    ended: dict[str, int]
    not_taken: int
    cached: int
    """Of those that ended: with a result from the cache."""
    violations: tuple[Violation, ...]
    checked: tuple[str, ...]
    recoveries: tuple[dict[str, Any], ...]
    repeated: RepeatedCalls | None
    injected: tuple[InjectedFault, ...]

    def json(self) -> str:
        return msgspec.json.encode(self).decode()

    def show(self, console: Console) -> None:
        """As tables."""
        broken = Counter(violation.invariant for violation in self.violations)
        table = Table("invariant", "", box=None, pad_edge=False)
        for name in self.checked:
            table.add_row(name, f"[red]{broken[name]} violations[/red]" if broken[name] else "[green]holds[/green]")
        console.print(table)
        for name in broken:
            shown = [violation for violation in self.violations if violation.invariant == name][:MOST_SHOWN]
            for violation in shown:
                console.print(f"  [red]{name}[/red]: {violation.where}: {violation.detail}", highlight=False)
        console.print()
        table = Table("recovery", "times", "longest", "bound", box=None, pad_edge=False)
        for recovery in self.recoveries:
            longest = recovery["longest_s"]
            late = longest is not None and longest > recovery["bound_s"]
            shown_longest = "–" if longest is None else f"{longest:.1f} s"
            table.add_row(
                recovery["what"],
                str(recovery["times"]),
                f"[red]{shown_longest}[/red]" if late else shown_longest,
                f"{recovery['bound_s']:.0f} s",
            )
        if self.recoveries:
            console.print(table)
        if self.repeated:
            made = self.repeated
            console.print(
                f"\n{made.calls} model calls for {made.needed} needed: {made.aborted} left open by who died or "
                f"stopped, {made.again} answered again; {made.in_flight} were in flight on what was broken",
                highlight=False,
            )
        kinds = Counter(injected.kind for injected in self.injected)
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.ended.items()))
        console.print(
            f"\n{self.accepted} accepted ({ended}; {self.cached} from the cache), {self.rejected} rejected, "
            f"{self.not_taken} not taken by NATS; "
            f"{len(self.injected)} faults ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}) "
            f"in {self.seconds:.0f} s",
            highlight=False,
        )
        verdict = "[bold green]Every invariant holds[/bold green]" if self.holds else "[bold red]Broken[/bold red]"
        console.print(f"{verdict} · seed {self.seed}", highlight=False)


def report(
    history: History, *, seed: int, deliberations: int, faults: int, seconds: float, ack_wait_s: float
) -> Report:
    """Judges the history."""
    violations = judge(history)
    ended = Counter(str(event.body.get("status")) for event in history.events if event.terminal)
    return Report(
        holds=not violations,
        seed=seed,
        deliberations=deliberations,
        faults=faults,
        seconds=round(seconds, 1),
        accepted=len(history.accepted),
        rejected=sum(event.subject == subjects.REJECTED for event in history.events),
        ended=dict(ended),
        cached=sum(event.terminal and event.body.get("cached_from") is not None for event in history.events),
        not_taken=sum(sent.sequence is None for sent in history.sent),
        violations=violations,
        checked=checked(history),
        recoveries=tuple(_shown(recovery) for recovery in recoveries(history, ack_wait_s) if recovery.times),
        repeated=repeated(history),
        injected=history.injected,
    )


def _shown(recovery: Recovery) -> dict[str, Any]:
    longest = recovery.longest_s
    return {
        "what": recovery.what,
        "bound_s": recovery.bound_s,
        "times": len(recovery.times),
        "longest_s": None if longest is None else round(longest, 2),
    }
