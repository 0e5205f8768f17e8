"""Declares every metric once, and holds the values of one process.

Counters are counted by one process per fact: their sum over all processes is true. Gauges are told by every process
that knows them: take their maximum. A label has few values: names that are not in the settings are `other` (`labels`).
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final, Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from fleet import subjects
from fleet.messages import ErrorType, Phase
from fleet.observability.exposition import Exposition
from fleet.observability.retries import RETRIES

disable_created_metrics()  # type: ignore[no-untyped-call]

Kind = Literal["counter", "gauge", "histogram"]

SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000)
OVERHEAD_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
FIRST_TOKEN_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100)

PHASES: Final[tuple[str, ...]] = get_args(Phase)
OUTCOMES: Final[frozenset[str]] = frozenset({"completed", *get_args(ErrorType)})
TOKEN_KINDS: Final = ("prompt", "cached", "completion", "reasoning")
REJECTIONS: Final = ("malformed", "invalid", "conflict", "undeliverable", "forbidden", "budget")
LETTER_REASONS: Final = ("rejected", "undecodable", "exhausted", "failed", "copy", "worker")
CONSUMERS: Final = (subjects.DISPATCHER, subjects.COLLECTOR, subjects.CONTROLLER, subjects.WORKERS)
ENDS: Final = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")


class Metric(NamedTuple):
    """`begins`: values of the labels for which there is a zero from the beginning: a rate needs one."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    begins: tuple[tuple[str, ...], ...] = ()


METRICS: Final = (
    Metric(
        "fleet_deliberations_accepted_total", "counter", "Deliberations that were recorded, by role", ("role", "tenant")
    ),
    Metric(
        "fleet_deliberations_total",
        "counter",
        "Deliberations that have ended, by status",
        ("status", "role", "tenant", "degraded"),
    ),
    Metric(
        "fleet_deliberation_seconds", "histogram", "From acceptance to the end", ("status",), SECONDS, begins=(ENDS,)
    ),
    Metric(
        "fleet_overhead_seconds",
        "histogram",
        "Time of a deliberation in which no call of its critical path was made",
        (),
        OVERHEAD_S,
    ),
    Metric(
        "fleet_cache_total",
        "counter",
        "Requests under `options.cache`; outcome: hit, shared with an equal one that ran, miss, or refresh",
        ("outcome", "tenant"),
    ),
    Metric("fleet_phase_seconds", "histogram", "From the beginning of a phase to its end", ("phase",), SECONDS),
    Metric(
        "fleet_calls_total",
        "counter",
        "Agent calls that have ended; outcome: completed or an error type",
        ("phase", "model", "endpoint", "outcome"),
    ),
    Metric(
        "fleet_call_seconds",
        "histogram",
        "What a worker has spent on a call, all its attempts",
        ("phase", "model", "endpoint"),
        SECONDS,
    ),
    Metric(
        "fleet_time_to_first_token_seconds",
        "histogram",
        "From the beginning of the attempt that answered to its first token",
        ("model", "endpoint"),
        FIRST_TOKEN_S,
    ),
    Metric("fleet_tokens_total", "counter", "Tokens as model servers tell them", ("kind", "model", "tenant")),
    Metric("fleet_cost_total", "counter", "Tokens times the prices of the settings", ("model", "tenant")),
    Metric("fleet_deliberations_in_progress", "gauge", "Deliberations of the whole fleet that have not ended"),
    Metric("fleet_calls_open", "gauge", "Attempts at an endpoint that are open, over all workers", ("endpoint",)),
    Metric("fleet_calls_waiting", "gauge", "Calls that wait in workers for room at an endpoint", ("model",)),
    Metric("fleet_breaker_open", "gauge", "Workers that send an endpoint no calls", ("endpoint",)),
    Metric(
        "fleet_attempts_total",
        "counter",
        "Attempts at model servers of calls that have ended",
        ("endpoint", "outcome"),
    ),
    Metric(
        "fleet_hedges_total",
        "counter",
        "Second attempts beside a slow one; won: whether it answered first",
        ("won",),
        begins=(("true", "false"),),
    ),
    Metric("fleet_requests_waiting", "gauge", "Requests that no dispatcher has recorded yet"),
    Metric("fleet_requests_held", "gauge", "Requests that wait for room in this process"),
    Metric("fleet_oldest_request_seconds", "gauge", "Age of the oldest request that is not recorded yet"),
    Metric("fleet_consumer_pending", "gauge", "Messages that a consumer has yet to deliver", ("consumer",)),
    Metric("fleet_consumer_unacked", "gauge", "Messages that are delivered and not acknowledged", ("consumer",)),
    Metric(
        "fleet_redelivered_total",
        "counter",
        "Messages that were delivered again; of workers: of calls that have ended",
        ("consumer",),
        begins=(CONSUMERS,),
    ),
    Metric(
        "fleet_dead_letters_total",
        "counter",
        "Messages that nobody could handle",
        ("reason",),
        begins=(LETTER_REASONS,),
    ),
    Metric("fleet_workers", "gauge", "Workers: wanted, answering, draining, missing", ("state",)),
    Metric("fleet_rounds_saved_total", "counter", "Rounds that were asked for, and not needed"),
    Metric("fleet_rejections_total", "counter", "Requests that were rejected", ("code",), begins=(REJECTIONS,)),
    Metric("fleet_calls_ahead", "gauge", "Calls that running deliberations are expected to make yet"),
    Metric("fleet_calls_expected_total", "counter", "Calls that deliberations were expected to make, as they began"),
    Metric("fleet_tokens_ahead", "gauge", "Tokens that running deliberations are expected to need yet", ("model",)),
    Metric("fleet_retries_total", "counter", "Steps tried again that NATS did not take or answer", ("what", "error")),
    Metric("fleet_tasks_in_work", "gauge", "Deliberations whose events this process is applying"),
    Metric("fleet_problem", "gauge", "1 for what keeps this process from being ready", ("problem",)),
    Metric("fleet_ready", "gauge", "1 when every probe was answered lately"),
)
"""In the order in which they are served."""

_OF_THE_PROCESS: Final[Mapping[str, Any]] = {"fleet_retries_total": RETRIES}
"""Counted before, and beside, any component."""
_KINDS: Final[Mapping[Kind, Any]] = {"counter": Counter, "gauge": Gauge}


class Family:
    """The series of one metric. `at` finds each by its labels, without the work that prometheus_client makes of it."""

    def __init__(self, metric: Metric, registry: CollectorRegistry) -> None:
        if (shared := _OF_THE_PROCESS.get(metric.name)) is not None:
            self._parent: Any = shared
            registry.register(shared)
        elif metric.kind == "histogram":
            self._parent = Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
        else:
            self._parent = _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=registry)
        self._children: dict[tuple[str, ...], Any] = {}
        if metric.begins:
            for labels in product(*metric.begins):
                self.at(*labels)

    def at(self, *labels: str) -> Any:
        """prometheus_client's counter, gauge or histogram."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._parent.labels(*labels) if labels else self._parent
        return child

    def replace(self, values: Mapping[str, float]) -> None:
        """Of a gauge with one label: what is not told any more is gone."""
        for labels in self._children.keys() - {(name,) for name in values}:
            self._parent.remove(*labels)
            del self._children[labels]
        for name, value in values.items():
            self.at(name).set(value)


class Metrics:
    """All of one process: `metrics["fleet_ready"]` is a family."""

    def __init__(self, declared: Sequence[Metric] = METRICS) -> None:
        self.registry = CollectorRegistry()
        self._families = {metric.name: Family(metric, self.registry) for metric in declared}
        self._exposition = Exposition(self.registry)

    def __getitem__(self, name: str) -> Family:
        return self._families[name]

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return self._exposition.text()
