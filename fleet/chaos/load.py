"""Publishes seeded requests, good and bad, each until NATS has acknowledged it or its time is over."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

import nats.errors
from msgspec import Struct
from nats.aio.client import Client

from fleet import subjects
from fleet.jetstream.connection import OUTAGES
from fleet.observability.retries import again
from fleet.tenants.names import DEFAULT_TENANT, key_of

Kind = Literal["good", "repeated", "conflicting", "malformed", "invalid", "oversized"]

PUBLISH_TIMEOUT_S = 3.0
PUBLISH_WITHIN_S = 30.0
CANCEL_WITHIN_S = 60.0
ASK_WITHIN_S = 80.0
"""With `PUBLISH_WITHIN_S` it is less than the two minutes in which NATS knows a message id: what is asked for is what
was published, unless NATS is started again meanwhile."""
ASK_TIMEOUT_S = 20.0
TOLD = ("tenant", "task_id", "status", "completed_at")
"""Of a terminal event: what tells it from others, whatever their ids."""
SHARE_ASKED, SHARE_CACHED, SHARE_REFRESHED = 0.1, 0.1, 0.1
"""Of good requests: their clients wait for the result; they may be answered from the cache; of these, they renew it."""
PAUSE_S = 0.5
SHARE_AT_MOMENTS = 0.4
LONG_TASK_CHARACTERS = 38_000
"""Three bytes each: the request fits one message, what follows from it may not."""
ENDS = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT")
OVERSIZED_BYTES = 10 * 1024 * 1024


class Request(Struct, frozen=True, kw_only=True):
    """One message to publish at `at_s`. `cancel_after_s`: it is cancelled that long after its PubAck. `ask`: its client
    then waits for the result.
    """

    number: int
    at_s: float
    kind: Kind
    body: bytes
    task_id: str | None = None
    cancel_after_s: float | None = None
    tenant: str = DEFAULT_TENANT
    ask: bool = False


class Submission(Struct, frozen=True, kw_only=True):
    """What became of a request: the sequence of its PubAck, None where there was none."""

    request: Request
    at: float
    sequence: int | None
    error: str | None = None

    @property
    def task_id(self) -> str:
        """Its own, or the one the fleet gives."""
        return self.request.task_id or f"d-{self.sequence}"

    @property
    def key(self) -> str:
        """The fleet's own name of the task: ids are a tenant's own, and so are sequences."""
        return key_of(self.request.tenant, self.task_id)


def requests(
    seed: int,
    count: int,
    within_s: float,
    *,
    moments: Sequence[float] = (),
    timeout_s: float,
    large: bool,
    tenants: Sequence[str] = (DEFAULT_TENANT,),
) -> tuple[Request, ...]:
    """`count` good requests spread over `within_s`, a part of them just before one of `moments`, so that these do not
    find the fleet idle; and bad and repeated ones beside them. Tenants use the same ids. Pure.
    """
    rng, of_tenants, of_cache = (Random(f"{seed}/{what}") for what in ("load", "tenants", "cache"))
    made: list[Request] = []
    counts: Counter[str] = Counter()

    def add(at_s: float, kind: Kind, body: bytes, task_id: str | None = None, **more: Any) -> None:
        made.append(
            Request(number=len(made), at_s=round(at_s, 3), kind=kind, body=body, task_id=task_id, tenant=tenant, **more)
        )

    for index in range(count):
        tenant, ask = of_tenants.choice(tenants), of_tenants.random() < SHARE_ASKED
        number, counts[tenant] = counts[tenant], counts[tenant] + 1
        at_s = within_s * (index + rng.random()) / count
        if moments and rng.random() < SHARE_AT_MOMENTS:
            at_s = max(0.0, rng.choice(moments) - rng.uniform(0.0, 1.0))
        task_id = f"chaos-{seed}-{number}" if rng.random() < 0.6 else None
        body = _body(rng, index, task_id, timeout_s, large)
        if of_cache.random() < SHARE_CACHED:
            body |= _question(of_cache)
        cancel = rng.uniform(0.05, 3.0) if rng.random() < 0.1 else None
        add(at_s, "good", _encode(body), task_id, cancel_after_s=cancel, ask=ask)
        if task_id and rng.random() < 0.15:
            add(at_s + rng.uniform(0, 5), "repeated", _encode(body), task_id)
        if task_id and rng.random() < 0.08:
            add(at_s + rng.uniform(0, 5), "conflicting", _encode({**body, "task_description": "Another"}), task_id)
        if rng.random() < 0.05:
            add(at_s, "malformed", rng.choice((b"", b"{", b"\xff\xfe", b"[1, 2", b'{"task_description": "x"} x')))
        if rng.random() < 0.05:
            add(at_s, "invalid", _encode(rng.choice(_INVALID)))
        if rng.random() < 0.01:
            add(at_s, "oversized", bytes(OVERSIZED_BYTES))
    return tuple(sorted(made, key=lambda request: request.at_s))


def _body(rng: Random, index: int, task_id: str | None, timeout_s: float, large: bool) -> dict[str, Any]:
    text = f"Chaos task {index}: design {rng.choice(_THINGS)} that survives {rng.choice(_TROUBLES)}"
    if large and rng.random() < 0.03:
        text += ": " + "詳細を尽くして" * (LONG_TASK_CHARACTERS // 7)
    short = rng.random() < 0.05
    options: dict[str, Any] = {"seed": rng.randrange(10_000)}
    if rng.random() < 0.3:
        options |= rng.choice(_OPTIONS)
    body: dict[str, Any] = {
        "task_description": text,
        "num_agents": rng.randint(1, 5),
        "rounds": rng.choices((0, 1, 2), (5, 4, 1))[0],
        "role": rng.choice(("DEV", "QA", "ARCHITECT", "DEVOPS", "DATA")),
        "constraints": {"timeout_seconds": rng.uniform(1, 4) if short else timeout_s},
        "correlation": {"index": str(index)},
        "options": options,
    }
    return body | ({"task_id": task_id} if task_id else {})


def _question(rng: Random) -> dict[str, Any]:
    """One of a few that all tenants ask again and again."""
    cache = "refresh" if rng.random() < SHARE_REFRESHED else "use"
    text = f"Which {rng.choice(_QUESTIONED)} would you take?"
    return {
        "task_description": text,
        "num_agents": 3,
        "rounds": 0,
        "role": "DEV",
        "options": {"cache": cache, "seed": 7},
    }


_QUESTIONED = ("cache", "scheduler")
_THINGS = ("a rate limiter", "an outbox", "a cache", "a scheduler", "an audit log", "a job queue")
_TROUBLES = ("a restart", "a full disk", "a slow peer", "a lost packet", "a clock that jumps", "a burst")
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"selection": "vote"},
    {"selection": "architect"},
    {"selection": "checks"},
    {"synthesis": True},
    {"early_stop": False},
    {"tie_margin": 2.0},
    {"max_total_tokens": 3000},
)
_INVALID: tuple[dict[str, Any], ...] = (
    {},
    {"task_description": " "},
    {"task_description": "x", "num_agents": 99},
    {"task_description": "x", "role": "POET"},
    {"task_description": "x", "task_id": "no spaces allowed"},
    {"task_description": "x", "options": {"sed": 7}},
)


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


class Load:
    """Publishes the plan, each tenant by its own connection; `sent`, `cancels` (key -> status replied) and `answers`
    (key -> what the reply of `deliberation.ask` said) grow meanwhile.
    """

    def __init__(self, clients: Mapping[str, Client], name: str) -> None:
        self.sent: list[Submission] = []
        self.cancels: dict[str, str] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self._clients = clients
        self._js = {tenant: nc.jetstream() for tenant, nc in clients.items()}
        self._name = name

    async def run(self, planned: Sequence[Request]) -> None:
        """Returns when everything was published, or given up, and every cancellation was answered."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for request in planned:
                await asyncio.sleep(max(0.0, began + request.at_s - time.monotonic()))
                group.create_task(self._one(request))

    async def _one(self, request: Request) -> None:
        sent = await self._publish(request)
        self.sent.append(sent)
        if sent.sequence is None:
            return
        async with asyncio.TaskGroup() as group:
            if request.ask:
                group.create_task(self._ask(sent))
            if request.cancel_after_s is not None:
                await asyncio.sleep(request.cancel_after_s)
                self.cancels[sent.key] = await self._cancel(request.tenant, sent.task_id)

    async def _publish(self, request: Request) -> Submission:
        """Tries until there is a PubAck: its message id makes that one message, as long as NATS remembers it."""
        at = time.time()
        headers, js = self._headers(request), self._js[request.tenant]
        try:
            ack = await again(
                "chaos.publish",
                lambda: js.publish(subjects.REQUESTED, request.body, headers=headers, timeout=PUBLISH_TIMEOUT_S),
                on=lambda error: isinstance(error, OUTAGES) and not isinstance(error, nats.errors.MaxPayloadError),
                within_s=PUBLISH_WITHIN_S,
                first_s=PAUSE_S,
                longest_s=PAUSE_S,
            )
        except OUTAGES as error:
            return Submission(request=request, at=at, sequence=None, error=repr(error))
        return Submission(request=request, at=at, sequence=ack.seq)

    def _headers(self, request: Request) -> dict[str, str]:
        return {"Nats-Msg-Id": f"{self._name}.{request.number}"}

    async def _ask(self, sent: Submission) -> None:
        """For what was published: the same message once more, whose reply is its terminal event. Again when nobody
        answers; a task that nobody has answered for by then is left out.
        """
        request, nc = sent.request, self._clients[sent.request.tenant]
        until = sent.at + PUBLISH_WITHIN_S + ASK_WITHIN_S
        while (left := until - time.time()) > 0:
            timeout_s = min(left, ASK_TIMEOUT_S)
            try:
                reply = await nc.request(subjects.ASK, request.body, headers=self._headers(request), timeout=timeout_s)
            except (nats.errors.Error, OSError, TimeoutError):
                await asyncio.sleep(PAUSE_S)
                continue
            body = json.loads(reply.data or b"{}")
            if body.get("status") in ENDS:
                self.answers[sent.key] = {name: body[name] for name in TOLD if name in body}
                return
            await asyncio.sleep(PAUSE_S)

    async def _cancel(self, tenant: str, task_id: str) -> str:
        """The status in the reply, as any client would ask for it: again when nobody answers."""
        body = json.dumps({"task_id": task_id, "reason": "chaos"}).encode()
        until = time.monotonic() + CANCEL_WITHIN_S
        while time.monotonic() < until:
            try:
                reply = await self._clients[tenant].request(subjects.CANCEL, body, timeout=10)
            except (nats.errors.Error, OSError, TimeoutError):
                await asyncio.sleep(PAUSE_S)
                continue
            status = json.loads(reply.data).get("status")
            # 404: not accepted yet. 5xx: that instance is going down.
            if status in ENDS:
                return str(status)
            await asyncio.sleep(PAUSE_S)
        return "UNANSWERED"
