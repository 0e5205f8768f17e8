"""Shows what workers tell of themselves as gauges."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from fleet.messages.workers import SILENT_S, WorkerStatus
from fleet.observability.labels import Labels
from fleet.observability.metrics import Metrics
from fleet.times import from_rfc3339


def show(workers: Sequence[WorkerStatus], expected: int, labels: Labels, metrics: Metrics, now_ms: int) -> None:
    """Sets the gauges, for those that were heard of lately. `wanted`: how many workers there should be."""
    fresh = [worker for worker in workers if now_ms - from_rfc3339(worker.told_at) < SILENT_S * 1000]
    open_calls: Counter[str] = Counter()
    breakers: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for worker in fresh:
        for endpoint in worker.endpoints:
            open_calls[endpoint.name] += endpoint.open_calls
            breakers[endpoint.name] += endpoint.breaker != "closed"
        waiting.update(worker.waiting_by_model)
    states = {"answering": float(len(fresh)), "missing": float(max(0, expected - len(fresh)))}
    metrics["fleet_workers"].replace(states)
    metrics["fleet_calls_open"].replace(_named(open_calls, labels.endpoint.of))
    metrics["fleet_breaker_open"].replace(_named(breakers, labels.endpoint.of))
    metrics["fleet_calls_waiting"].replace(_named(waiting, labels.model.of))


def _named(values: Mapping[str, int], name_of: Callable[[str], str]) -> dict[str, float]:
    totals: Counter[str] = Counter()
    for name, value in values.items():
        totals[name_of(name)] += value
    return {name: float(value) for name, value in totals.items()}
