"""Bounds how many deliberations are in progress at once. Requests beyond that wait in their stream.

A deliberation in progress has one scheduled deadline in `DELIBERATION_CONTROL`, from acceptance to end: the number of
those is the count for all dispatchers together. The room that a look finds is good for a second;
two dispatchers that look at the same moment take half of it each, three or more may take a few too many.

Requests that are here already and find no room are held, and NATS is told that they are in progress. They are few: NATS
delivers no more than the consumer's `max_ack_pending`.

Where there are tenants, their shares decide who is next (`fleet.tenants.sharing`); each may have a limit of its own.
That holds for all dispatchers together: requests of such a tenant are admitted only while it is this dispatcher's turn
(`fleet.control.admitting.turns`), by a count that was made since. Where room is short nobody else takes their part in
between.

Nothing begins while what has begun waits for a process (`fleet.control.admitting.backlog`), but for a tenant that has
nothing in progress. Fewer begin while one tenant's slow down those of another one that asks for little
(`fleet.tenants.window`).
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial

import structlog
from nats.aio.msg import Msg

from fleet import subjects
from fleet.control.admitting.held import Admit, Held, Holdable, Queued, Turn
from fleet.jetstream.lifetimes import CONTROL_ACK_WAIT_S, KEEP_EVERY_S
from fleet.jetstream.origin import published
from fleet.logger import Seldom
from fleet.messages import UNDECODABLE, EndSummary, decode
from fleet.messages.end_summary import HEADER
from fleet.observability.retries import again
from fleet.tenants.limits import Tenant, weights_of
from fleet.tenants.names import key_of_event, name_of, subject_of, tenant_of
from fleet.tenants.sharing import Shares
from fleet.tenants.window import Took, Window

log = structlog.get_logger(__name__)

ROOM_VALID_S = 1.0
LOOK_EVERY_S, LOOK_AGAIN_S = 0.1, 0.5
BACKLOG_EVERY_S = 0.06
TURN_S, TURN_AGAIN_S = 1.0, 0.02
"""How long a count is good in a turn, and when one is asked for again that was another's. A turn in which something is
still being recorded is kept as often."""
TOLD_EVERY_S = 10.0
"""How often a log says that there is no turn to be had."""
LATE = "DeadlineExceeded"
"""The error of a call that the deadline has cut off."""


def _took(summary: EndSummary) -> Took | None:
    if summary.status != "COMPLETED" or summary.cached_from is not None or summary.overhead_ms is None:
        return None
    return Took(summary.duration_ms, summary.overhead_ms, summary.usage.calls, summary.agents or 0)


class Admission:
    """The requests that wait for room in one dispatcher. Of one tenant more urgent ones are admitted first,
    then older ones."""

    def __init__(self, limit: int, tenants: Mapping[str, Tenant] | None = None) -> None:
        self._limit = limit
        self._tenants = tenants or {}
        weights = weights_of(self._tenants)
        self._shares, self._window = Shares(weights), Window(weights)
        self._open: Counter[str] = Counter()
        self._room = 0
        self._valid_until = self._turn_until = 0.0
        self._short_until = self._next_turn_until = 0.0
        """While there is less room than is asked for; while another turn is expected, since there was one lately."""
        self._beginning: set[asyncio.Future[None]] = set()
        """What was admitted in this turn, and is not known to be recorded."""
        self._held: deque[Held] = deque()
        self._wake, self._stuck = asyncio.Event(), asyncio.Event()
        self._queued: Queued | None = None
        self._failed = Seldom(TOLD_EVERY_S)

    @property
    def held(self) -> int:
        """Requests that wait here for room."""
        return len(self._held)

    def submit(
        self, key: str, delivery: Holdable, admit: Admit, expected: float = 0.0, urgency: int = 0, calls: int = 1
    ) -> None:
        """Calls `admit` as soon as there is room, and it is this one's turn. `key`: of its task."""
        place = next((place for place, held in enumerate(self._held) if held.urgency < urgency), len(self._held))
        self._held.insert(place, Held(key, delivery, admit, name_of(key).tenant, expected, urgency, calls))
        if time.monotonic() < self._valid_until:
            self._let_in()
        if self._held:
            self._wake.set()

    def see(self, running: Collection[str]) -> None:
        """The keys of the deliberations that have not ended, as the last look has found."""
        self._open = Counter(name_of(key).tenant for key in running)
        self._window.keep(running, time.monotonic() - CONTROL_ACK_WAIT_S)

    async def on_end(self, msg: Msg) -> None:
        """A terminal event, of whatever dispatcher's deliberation: its header tells what was used."""
        if not published(msg, *(subject_of(tenant_of(msg.subject), subject) for subject in subjects.TERMINAL)):
            return
        tenant = tenant_of(msg.subject)
        with suppress(*UNDECODABLE):
            summary = decode(str((msg.headers or {}).get(HEADER, "")).encode(), EndSummary)
            if summary.cached_from is None:  # else it used nothing, and says nothing of what others use
                complete = summary.status in ("COMPLETED", "FAILED") and LATE not in summary.failures
                self._shares.ended(tenant, summary.usage.total, summary.duration_ms, complete=complete)
            self._window.ended(
                tenant,
                key_of_event(msg.subject, msg.headers),
                _took(summary),
                {held.tenant for held in self._held},
                time.monotonic(),
            )
        if time.monotonic() < self._valid_until:
            self._let_in()

    def _let_in(self) -> None:
        while self._has_room() and (held := self._next()) is not None:
            self._held.remove(held)
            self._room -= 1
            self._open[held.tenant] += 1
            if self._tenants:  # else nobody hears of ends
                self._window.begun(held.tenant, held.key, time.monotonic())
            begun = held.admit()
            if self._queued is not None:
                self._queued.begin(held.calls, begun)
            if self._limit_of(held.tenant) is not None:
                self._beginning.add(begun)

    def _has_room(self) -> bool:
        if self._held and self._room <= 0:
            self._short_until = time.monotonic() + TURN_S
        return self._room > 0

    def _next(self) -> Held | None:
        """None: nobody waits, or only those whose tenants have as many in progress as they may, or wait for a turn."""
        if not self._tenants:
            return self._held[0] if self._held else None
        first: dict[str, Held] = {}
        for held in self._held:
            first.setdefault(held.tenant, held)
        now = time.monotonic()
        in_turn = now < self._turn_until
        # Where room is short, who waits for a turn counts, too: else the others would have taken all of it until then.
        comes = in_turn or now < min(self._short_until, self._next_turn_until)
        may = [name for name in first if self._may_begin(name, comes) and self._window.admits(name, first, now)]
        if not may:
            return None
        chosen = self._shares.next({name: first[name].expected for name in may}, self._open)
        if not self._may_begin(chosen, in_turn):
            return None
        if self._queued is not None and not self._queued.has_room and self._window.has_begun(chosen):
            self._short_until = now + TURN_S
            self._stuck.set()
            return None
        return first[chosen]

    def _may_begin(self, tenant: str, in_turn: bool) -> bool:
        limit = self._limit_of(tenant)
        return limit is None or (in_turn and self._open[tenant] < limit)

    def _limit_of(self, tenant: str) -> int | None:
        limits = self._tenants.get(tenant)
        return None if limits is None else limits.max_in_flight

    async def run(self, in_progress: Callable[[], Awaitable[int]], turn: Turn, queued: Queued) -> None:
        """Runs until cancelled; what is held then is handed back. `in_progress` counts the deliberations of all."""
        self._queued = queued if self._tenants else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_held())
                group.create_task(self._watch(queued))
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    await self._admit_held(in_progress, turn)
        finally:
            held, self._held = self._held, deque()
            await asyncio.gather(*(each.delivery.hand_back() for each in held), return_exceptions=True)

    async def _admit_held(self, in_progress: Callable[[], Awaitable[int]], turn: Turn) -> None:
        full = False
        while self._held:
            needs_turn = any(self._limit_of(held.tenant) is not None for held in self._held)
            has_turn = needs_turn and await self._take(turn)
            try:
                await self._let_in_by_count(in_progress)
                await self._recorded(in_progress, turn)
            finally:
                self._turn_until = 0.0
                if has_turn:
                    self._next_turn_until = time.monotonic() + TURN_S
                    await turn.give_back()
            if not self._held:
                break
            if not full and not self._room:  # else it is their tenants that may have no more
                full = True
                log.warning("admission.full", in_progress=self._limit, held=len(self._held))
            await asyncio.sleep(TURN_AGAIN_S if needs_turn and not has_turn else LOOK_EVERY_S)
        if full:
            log.info("admission.open")

    async def _take(self, turn: Turn) -> bool:
        until = time.monotonic() + TURN_S  # from before it was asked for: others may count from then on
        try:
            if not await turn.take():
                return False
        except Exception as error:  # those of other tenants need none
            if (times := self._failed.count("turn")) is not None:
                log.warning("admission.no_turn", error=repr(error), times=times)
            return False
        self._turn_until = until
        return True

    async def _let_in_by_count(self, in_progress: Callable[[], Awaitable[int]]) -> None:
        look = partial(self._look, in_progress)
        await again("requests.count", look, on=Exception, first_s=LOOK_AGAIN_S, longest_s=LOOK_AGAIN_S)
        self._let_in()

    async def _recorded(self, in_progress: Callable[[], Awaitable[int]], turn: Turn) -> None:
        """Waits for what was admitted in this turn: until then others would not count it. What is stuck comes again."""
        if not self._beginning:
            return
        until = time.monotonic() + CONTROL_ACK_WAIT_S
        async with asyncio.TaskGroup() as group:
            meanwhile = group.create_task(self._let_in_without_limit(in_progress))
            while self._beginning and time.monotonic() < until:
                done, _ = await asyncio.wait(self._beginning.copy(), timeout=TURN_S)
                self._beginning -= done
                if not done:
                    await turn.keep()
            self._beginning.clear()
            meanwhile.cancel()

    async def _let_in_without_limit(self, in_progress: Callable[[], Awaitable[int]]) -> None:
        """Of tenants with a limit nobody: a count does not hold what is about to be recorded. It ends with that, also
        where a count takes the cancellation for its own, as `asyncio.wait_for` of Python 3.11 may."""
        while self._beginning:
            await asyncio.sleep(LOOK_EVERY_S)
            if any(self._limit_of(held.tenant) is None for held in self._held):
                self._turn_until = 0.0
                await self._let_in_by_count(in_progress)

    async def _watch(self, queued: Queued) -> None:
        """Looks again and again while requests wait for what is queued."""
        while True:
            await self._stuck.wait()
            self._stuck.clear()
            await queued.look()
            if time.monotonic() < self._valid_until:
                self._let_in()
            await asyncio.sleep(BACKLOG_EVERY_S)

    async def _keep_held(self) -> None:
        """Whatever a look takes: a request that comes again after `ack_wait` would be admitted twice."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await asyncio.gather(*(each.delivery.keep() for each in self._held), return_exceptions=True)

    async def _look(self, in_progress: Callable[[], Awaitable[int]]) -> None:
        self._room = 0  # Nothing is admitted during the count.
        free = self._limit - await in_progress()
        self._room = -(-free // 2) if free > 0 else 0
        self._valid_until = time.monotonic() + ROOM_VALID_S
