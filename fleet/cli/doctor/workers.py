"""Reads what workers report of themselves, and of the model servers as they see them."""

from collections.abc import Sequence

from fleet.cli.doctor.findings import Finding
from fleet.cli.doctor.fleet_state import Consumer
from fleet.clock import now_ms
from fleet.messages.workers import SILENT_S, EndpointStatus, PoolSize, WorkerStatus, is_silent
from fleet.times import from_rfc3339

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def told_s(worker: WorkerStatus) -> float:
    """How long ago it has told this."""
    return max(0.0, (now_ms() - from_rfc3339(worker.told_at)) / 1000)


def pool_in_words(pool: PoolSize, workers: Sequence[WorkerStatus]) -> str:
    """How many run and drain, and what the number that is wanted goes by."""
    fresh = _fresh(workers)
    running = _running(fresh)
    missing = f"; {pool.due - running} should have come by now" if running < pool.due else ""
    return (
        f"{running} running, {len(fresh) - running} draining, {pool.needed} needed now for up to "
        f"{pool.calls_at_once:,.0f} calls at once{missing}"
    )


def _fresh(workers: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    at_ms = now_ms()
    return [worker for worker in workers if not is_silent(worker, at_ms)]


def _running(fresh: Sequence[WorkerStatus]) -> int:
    return sum(not worker.draining for worker in fresh)


def _pool(pool: PoolSize, workers: Sequence[WorkerStatus]) -> Finding:
    """Of a pool whose size follows the work."""
    facts = f"{pool.wanted} wanted, {pool_in_words(pool, workers)}"
    if _running(_fresh(workers)) < pool.due:
        todo = "has Ray room, or an autoscaler that brings nodes? See `ray status` and the dispatcher's log"
        return Finding("warn", "pool of workers", facts, todo)
    return Finding("ok", "pool of workers", facts)


def asking(calls: Consumer, pool: PoolSize | None) -> Finding:
    """Whether workers ask for calls, and what waits for them."""
    load = f"{calls.waiting:,} calls wait, {calls.open:,} are open"
    if calls.again:
        load += f", {calls.again:,} of them were handed out before"
    if calls.silent_s is not None:
        load += f"; the last call ended {calls.silent_s:,.0f} s ago"
    if calls.served:
        return Finding("ok", "workers", f"ask for calls: {load}")
    if pool is not None and pool.wanted == 0:
        return Finding("ok", "workers", f"none is wanted, the first request brings one: {load}")
    if calls.open:
        return Finding("warn", "workers", f"none asks for calls just now: {load}", "all may be busy; look again")
    todo = "is a dispatcher at work, does Ray have room for its workers, may they log in? See its log"
    return Finding("fail", "workers", f"none asks for calls: {load}", todo)


def findings(workers: Sequence[WorkerStatus] | None, pool: PoolSize | None = None) -> list[Finding]:
    """The pool where its size follows the work, each worker, and each model server as the workers see it."""
    sized = [_pool(pool, workers or ())] if pool is not None else []
    if pool is not None and pool.wanted == 0 and not workers:
        return sized
    if workers is None:
        todo = "may this user read the bucket deliberation-workers? `operator` may"
        return [Finding("warn", "worker", "what workers tell of themselves cannot be read", todo)]
    if not workers:
        todo = "they are starting, are an older version, or may not write to the bucket deliberation-workers"
        return [*sized, Finding("warn", "worker", "none has told how it is within a minute", todo)]
    return [*sized, *map(_worker, workers), *_breakers(_fresh(workers))]


def _worker(worker: WorkerStatus) -> Finding:
    age = _age((now_ms() - from_rfc3339(worker.started_at)) / 1000)
    state = f"drains, runs for {age}" if worker.draining else f"runs for {age}"
    facts = f"{state}, {worker.open_calls:,} calls open, {worker.done:,} done, {worker.failed:,} failed"
    what = f"worker {worker.name}"
    if (silent_s := told_s(worker)) >= SILENT_S:
        return Finding("warn", what, f"{facts}; silent for {silent_s:,.0f} s", "it hangs, or has ended: see its log")
    if worker.last_fetch_age_s >= SILENT_S:
        todo = "does the consumer `workers` exist, may it pull? See its log"
        return Finding("warn", what, f"{facts}; NATS has not served it for {worker.last_fetch_age_s:,.0f} s", todo)
    return Finding("ok", what, facts)


def _breakers(workers: Sequence[WorkerStatus]) -> list[Finding]:
    """A failure where no worker can use any model server."""
    seen: dict[str, list[EndpointStatus]] = {}
    for worker in workers:
        for endpoint in worker.endpoints:
            seen.setdefault(endpoint.name or endpoint.url, []).append(endpoint)
    open_at = {name: sum(each.breaker == "open" for each in statuses) for name, statuses in seen.items()}
    none = bool(seen) and all(open_at[name] == len(statuses) for name, statuses in seen.items())
    return [_breaker(name, statuses, open_at[name], none=none) for name, statuses in seen.items()]


def _breaker(name: str, statuses: Sequence[EndpointStatus], opened: int, *, none: bool) -> Finding:
    calls = sum(each.open_calls for each in statuses)
    load = f"{calls:,} calls open, {sum(each.waiting for each in statuses):,} wait for it"
    what, todo = f"calls to {name}", "workers ask it for single calls only until one succeeds: see the server's log"
    if opened:
        where = "" if len(statuses) == 1 else f" at {opened} of {len(statuses)} workers"
        times = max(each.opened for each in statuses)
        return Finding("fail" if none else "warn", what, f"breaker open{where} (opened {times} times); {load}", todo)
    if refused := {model: why for each in statuses for model, why in each.refuses.items()}:
        refusals = "; ".join(f"{model}: {why}" for model, why in refused.items())
        return Finding("warn", what, f"refuses {refusals}; {load}", "correct the key, the model's name or the URL")
    return Finding("ok", what, f"breaker closed, {load}")


def _age(seconds: float) -> str:
    for unit, size in (("days", DAY_S), ("hours", HOUR_S), ("minutes", MINUTE_S)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(0.0, seconds):,.0f} s"
