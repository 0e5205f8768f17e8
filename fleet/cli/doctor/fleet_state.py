"""Reads from NATS what a fleet looks like: who serves, what waits, what could not be handled."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from fleet import subjects
from fleet.jetstream import pool_size, worker_statuses
from fleet.jetstream.streams import consumed
from fleet.messages.workers import PoolSize, WorkerStatus
from fleet.tenants.names import requests_of
from fleet.times import from_rfc3339

WITHIN_S = 5.0
INSTANCES_WITHIN_S = 1.0


class Consumer(Struct, frozen=True, kw_only=True):
    """One of the fleet's. `served`: somebody takes its messages now. `waiting`: not handed out yet; `open`: handed out,
    and not done; `silent_s`: since one was last acknowledged, null where that never was."""

    name: str
    served: bool
    waiting: int
    open: int
    again: int
    silent_s: float | None


class FleetState(Struct, frozen=True, kw_only=True):
    """`instances`: of the service `deliberations`. `running`: tasks with a deadline ahead. `oldest_s`: how long the
    oldest request waits. `unserved`: tenants whose requests NATS takes and no dispatcher reads. `workers` null: what
    they tell of themselves cannot be read. `pool`: how many there should be, where that follows the work; null: it does
    not, or cannot be read."""

    instances: tuple[str, ...]
    consumers: tuple[Consumer, ...]
    running: tuple[str, ...]
    requests: int
    oldest_s: float
    dead_letters: int
    unserved: tuple[str, ...] = ()
    workers: tuple[WorkerStatus, ...] | None = None
    pool: PoolSize | None = None

    def consumer(self, name: str) -> Consumer:
        return next(each for each in self.consumers if each.name == name)


async def look(nc: Any) -> FleetState:
    """Raises what nats-py raises, and KeyError where a stream or a consumer is missing."""
    from fleet.jetstream.tenants import request_streams

    schedules = f"{subjects.CONTROL_SCHEDULE}."
    requests, letters, deadlines, instances, statuses, pool, *consumers = await asyncio.gather(
        _api(nc, f"STREAM.INFO.{subjects.DELIBERATION_REQUESTS}"),
        _api(nc, f"STREAM.INFO.{subjects.DEAD_LETTERS}", {"subjects_filter": f"{subjects.DEADLETTER}.>"}),
        _api(nc, f"STREAM.INFO.{subjects.DELIBERATION_CONTROL}", {"subjects_filter": f"{schedules}>"}),
        _instances(nc),
        worker_statuses.look(nc),
        _pool(nc),
        *(_api(nc, f"CONSUMER.INFO.{spec.name}.{consumer.name}") for spec, consumer in consumed()),
    )
    of_tenants = await request_streams(nc)
    waiting = [requests["state"], *(stream["state"] for stream in of_tenants.values())]
    now = datetime.now(UTC).timestamp()
    by_subject: dict[str, int] = letters["state"].get("subjects") or {}
    notes = sum(count for subject, count in by_subject.items() if subject.startswith(subjects.replayed("")))
    return FleetState(
        instances=tuple(instances),
        consumers=tuple(_consumer(info, now) for info in consumers),
        running=tuple(sorted(key.removeprefix(schedules) for key in deadlines["state"].get("subjects") or ())),
        requests=sum(state["messages"] for state in waiting),
        oldest_s=max(_age_s(state["first_ts"], now) if state["messages"] else 0.0 for state in waiting),
        dead_letters=letters["state"]["messages"] - notes,
        unserved=tuple([tenant for tenant in of_tenants if not await _is_served(nc, tenant)]),
        workers=statuses,
        pool=pool,
    )


def _consumer(info: dict[str, Any], now: float) -> Consumer:
    acked = (info.get("ack_floor") or {}).get("last_active")
    return Consumer(
        name=info["name"],
        # Workers pull: what waits there are their requests for calls.
        served=bool(info.get("push_bound") or info.get("num_waiting")),
        waiting=info["num_pending"],
        open=info["num_ack_pending"],
        again=info["num_redelivered"],
        silent_s=_age_s(acked, now) if acked else None,
    )


async def _pool(nc: Any) -> PoolSize | None:
    try:
        return (await pool_size.look(nc))[0]
    except Exception:  # permissions, an older fleet: nobody else's concern
        return None


def _age_s(at: str, now: float) -> float:
    # NATS tells nanoseconds.
    seconds, _, rest = at.removesuffix("Z").partition(".")
    return max(0.0, now - from_rfc3339(f"{seconds}.{rest[:3] or 0}Z") / 1000)


async def _api(nc: Any, what: str, question: dict[str, Any] | None = None) -> dict[str, Any]:
    body = json.dumps(question).encode() if question else b""
    answer: dict[str, Any] = json.loads((await nc.request(f"$JS.API.{what}", body, timeout=WITHIN_S)).data)
    if "error" in answer:
        raise KeyError(what)
    return answer


async def _is_served(nc: Any, tenant: str) -> bool:
    try:
        info = await _api(nc, f"CONSUMER.INFO.{requests_of(tenant)}.{subjects.DISPATCHER}")
    except KeyError:
        return False
    return bool(info.get("push_bound"))


async def _instances(nc: Any) -> Sequence[str]:
    """Who answers within a second; a fleet that has many needs no longer than one that has one."""
    ids: list[str] = []
    inbox = nc.new_inbox()

    async def hear(msg: Any) -> None:
        ids.append(json.loads(msg.data)["id"])

    subscription = await nc.subscribe(inbox, cb=hear)
    await nc.publish(f"$SRV.PING.{subjects.SERVICE}", b"", reply=inbox)
    await asyncio.sleep(INSTANCES_WITHIN_S)
    await subscription.unsubscribe()
    return sorted(ids)
