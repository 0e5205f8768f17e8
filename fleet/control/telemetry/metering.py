"""Counts what changes of states mean, each fact once: by the process whose compare-and-set has won."""

from collections.abc import Callable, Mapping, Sequence

from fleet.config import Settings
from fleet.control.scaling.expected_work import ExpectedWork, calls_left
from fleet.control.states.saves import AppliedEvent
from fleet.deliberation.events import DeadlinePassed, Requested, Responded, ResultFound, ResultMissing
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AgentResponse,
    AttemptTally,
    DeliberationCompleted,
    FailedCall,
    TerminalEvent,
    Usage,
    status_of,
)
from fleet.observability.labels import NONE, OTHER, Labels
from fleet.observability.metrics import OUTCOMES, Metrics
from fleet.subjects import WORKERS
from fleet.tenants.names import name_of
from fleet.times import from_rfc3339

COMPLETED = "completed"
EARLY = ("leader_settled", "no_movement")
"""Reasons to stop that spare rounds."""


class Meter:
    """Counts what one process does. `ahead` takes note of what is coming, where somebody looks at it again and again:
    only then is what has ended forgotten."""

    def __init__(self, settings: Settings, metrics: Metrics, ahead: ExpectedWork | None = None) -> None:
        self.metrics = metrics
        self.ahead = ahead
        self.labels = Labels(settings)

    def saved(self, before: Deliberation | None, after: Deliberation, applied: Sequence[AppliedEvent]) -> None:
        """As `saves.Observer.saved`."""
        for one in applied:
            match one.event:
                case Responded(response):
                    self._call(response, _failure(one))
                case DeadlinePassed():
                    for failure in _failures(one):
                        self._count_call(failure.phase, NONE, NONE, failure.error_type)
                case Requested() as requested:
                    role = self.labels.role.of(after.task.role)
                    self.metrics["fleet_deliberations_accepted_total"].at(role, after.name.tenant).inc()
                    if requested.answer is not None:
                        self._looked("hit", after)
                    self._expected(one.after)
                case ResultFound():
                    self._looked("shared", after)
                case ResultMissing():
                    self._looked("refresh" if after.task.cache == "refresh" else "miss", after)
                    self._expected(one.after)
        self._phases(before, after)
        if after.result is not None:
            self._end(after, after.result)
        if self.ahead is not None:
            self.ahead.note(after)

    def _expected(self, begun: Deliberation) -> None:
        """None yet of one that waits for another's result."""
        if not begun.ended:
            calls = calls_left(begun, self.ahead.later_rounds if self.ahead is not None else 1.0)
            self.metrics["fleet_calls_expected_total"].at().inc(sum(calls.values()))

    def _looked(self, outcome: str, state: Deliberation) -> None:
        self.metrics["fleet_cache_total"].at(outcome, state.name.tenant).inc()

    def rejected(self, code: str) -> None:
        """A rejection was published, and was not there before."""
        self.metrics["fleet_rejections_total"].at(code).inc()

    def dead_letter(self, reason: str) -> None:
        """A dead letter was stored, and was not there before."""
        self.metrics["fleet_dead_letters_total"].at(kind_of_letter(reason)).inc()

    def redelivered(self, consumer: str) -> Callable[[], None]:
        """Counts one message of this consumer that was delivered before."""
        count: Callable[[], None] = self.metrics["fleet_redelivered_total"].at(consumer).inc
        return count

    # --- calls ------------------------------------------------------------------------------------------------------

    def _call(self, response: AgentResponse, failure: FailedCall | None) -> None:
        facts, metrics = response.facts, self.metrics
        tallies = facts.attempts
        listed = any(tally.listed and tally.model == facts.model for tally in tallies)
        model = self.labels.model.of(facts.model, listed=listed)
        endpoint = self.labels.endpoint.of(facts.endpoint)
        self._count_call(response.phase, model, endpoint, failure.error_type if failure else COMPLETED)
        metrics["fleet_call_seconds"].at(response.phase, model, endpoint).observe(response.duration_ms / 1000)
        if failure is None and facts.first_token_ms is not None:
            metrics["fleet_time_to_first_token_seconds"].at(model, endpoint).observe(facts.first_token_ms / 1000)
        tenant = name_of(response.task_id).tenant
        for tally in tallies:
            self._attempts(tally, tenant)
        if not tallies:
            self._tokens(response.usage, model, tenant)
        if facts.hedges:
            hedges, won = metrics["fleet_hedges_total"], int(facts.hedge_won)
            hedges.at("true").inc(won)
            hedges.at("false").inc(facts.hedges - won)
        if facts.delivery > 1:
            metrics["fleet_redelivered_total"].at(WORKERS).inc(facts.delivery - 1)
        if self.ahead is not None:
            self.ahead.learn(response.phase, model, response.usage.total)

    def _count_call(self, phase: str, model: str, endpoint: str, outcome: str) -> None:
        outcome = outcome if outcome in OUTCOMES else OTHER
        self.metrics["fleet_calls_total"].at(phase, model, endpoint, outcome).inc()

    def _attempts(self, tally: AttemptTally, tenant: str) -> None:
        outcome = tally.outcome if tally.outcome in OUTCOMES else OTHER
        endpoint = self.labels.endpoint.of(tally.endpoint)
        self.metrics["fleet_attempts_total"].at(endpoint, outcome).inc(tally.count)
        model = self.labels.model.of(tally.model, listed=tally.listed)
        self._tokens(tally.usage, model, tenant, tally.reasoning_tokens)
        if tally.cost:
            self.metrics["fleet_cost_total"].at(model, tenant).inc(tally.cost)

    def _tokens(self, usage: Usage, model: str, tenant: str, reasoning: int = 0) -> None:
        family = self.metrics["fleet_tokens_total"]
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", reasoning),
        ):
            if tokens:
                family.at(kind, model, tenant).inc(tokens)

    # --- phases and ends --------------------------------------------------------------------------------------------

    def _phases(self, before: Deliberation | None, after: Deliberation) -> None:
        ended_before = _ended_phases(before) if before is not None else 0
        for index in range(ended_before, _ended_phases(after)):
            record = after.phases[index]
            seconds = (_end_ms(after, index) - record.began_ms) / 1000
            self.metrics["fleet_phase_seconds"].at(record.phase).observe(max(0.0, seconds))

    def _end(self, state: Deliberation, event: TerminalEvent) -> None:
        status, degraded, metrics = status_of(event), "false", self.metrics
        metrics["fleet_deliberation_seconds"].at(status).observe(event.duration_ms / 1000)
        if isinstance(event, DeliberationCompleted):
            degraded = "true" if event.degraded else "false"
        if isinstance(event, DeliberationCompleted) and event.cached_from is None:
            metrics["fleet_overhead_seconds"].at().observe(overhead_ms(state) / 1000)
            may_stop_early = state.task.early_stop and event.stop_reason in (*EARLY, "all_rounds")
            if self.ahead is not None and may_stop_early:
                self.ahead.learn_rounds(state.task.rounds, event.rounds_run)
            if event.stop_reason in EARLY:
                metrics["fleet_rounds_saved_total"].at().inc(state.task.rounds - event.rounds_run)
        role = self.labels.role.of(state.task.role)
        metrics["fleet_deliberations_total"].at(status, role, event.tenant, degraded).inc()


def overhead_ms(state: Deliberation) -> int:
    """Of an ended deliberation: its time, less that of the longest call of each phase. A phase that was cut off has
    waited for its calls all the time."""
    assert state.result is not None
    calls_ms = sum(record.longest_ms for record in state.phases)
    if state.phases and "open" in state.calls.values():
        last = state.phases[-1]
        calls_ms += max(0, _end_ms(state, len(state.phases) - 1) - last.began_ms) - last.longest_ms
    waited_ms = from_rfc3339(state.result.completed_at) - _ended_ms(state)
    return max(0, state.result.duration_ms - waited_ms - calls_ms)


_LETTERS: Mapping[str, str] = {
    "$": "rejected",
    "exhausted": "exhausted",
    "failed ": "failed",
    "a copy ": "copy",
    "the worker ": "worker",
}


def kind_of_letter(reason: str) -> str:
    """What the reason of a dead letter begins with says why; whatever is left could not be decoded."""
    return next((kind for begin, kind in _LETTERS.items() if reason.startswith(begin)), "undecodable")


def _failures(applied: AppliedEvent) -> Sequence[FailedCall]:
    """Those that this event has added, to the council's or to those of its shadows."""
    before, after = ((_all_failures(state) if state else ((), ())) for state in (applied.before, applied.after))
    return tuple(failure for old, new in zip(before, after, strict=True) for failure in new[len(old) :])


def _all_failures(state: Deliberation) -> tuple[Sequence[FailedCall], Sequence[FailedCall]]:
    return state.failures, state.shadows.failures if state.shadows is not None else ()


def _failure(applied: AppliedEvent) -> FailedCall | None:
    return next(iter(_failures(applied)), None)


def _ended_phases(state: Deliberation) -> int:
    return len(state.phases) if state.ended else max(0, len(state.phases) - 1)


def _end_ms(state: Deliberation, index: int) -> int:
    """When a phase that has ended did."""
    if index + 1 < len(state.phases):
        return state.phases[index + 1].began_ms
    return _ended_ms(state)


def _ended_ms(state: Deliberation) -> int:
    """When the council came to its end, whether or not it has waited for its shadows since."""
    assert state.result is not None
    since = state.shadows.since if state.shadows is not None else None
    return from_rfc3339(since or state.result.completed_at)
