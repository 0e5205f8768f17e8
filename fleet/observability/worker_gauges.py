"""Shows what workers tell of themselves as gauges."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from fleet.messages.workers import WorkerStatus, is_silent
from fleet.observability.labels import Labels
from fleet.observability.metrics import Metrics


def show(
    workers: Sequence[WorkerStatus],
    due: int,
    labels: Labels,
    metrics: Metrics,
    now_ms: int,
    *,
    wanted: int | None = None,
) -> None:
    """Sets the gauges, for those that were heard of lately. `due`: how many workers should answer by now, of those that
    are `wanted`; absent: all."""
    fresh = [worker for worker in workers if not is_silent(worker, now_ms)]
    answering = sum(not worker.draining for worker in fresh)
    open_calls: Counter[str] = Counter()
    breakers: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for worker in fresh:
        for endpoint in worker.endpoints:
            open_calls[endpoint.name] += endpoint.open_calls
            breakers[endpoint.name] += endpoint.breaker != "closed"
        waiting.update(worker.waiting_by_model)
    states = {
        "wanted": float(due if wanted is None else wanted),
        "answering": float(answering),
        "draining": float(len(fresh) - answering),
        "missing": float(max(0, due - answering)),
    }
    metrics["fleet_workers"].replace(states)
    metrics["fleet_calls_open"].replace(_named(open_calls, labels.endpoint.of))
    metrics["fleet_breaker_open"].replace(_named(breakers, labels.endpoint.of))
    metrics["fleet_calls_waiting"].replace(_named(waiting, labels.model.of))


def _named(values: Mapping[str, int], name_of: Callable[[str], str]) -> dict[str, float]:
    totals: Counter[str] = Counter()
    for name, value in values.items():
        totals[name_of(name)] += value
    return {name: float(value) for name, value in totals.items()}
