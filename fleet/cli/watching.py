"""Runs `fleet watch`: shows what happened to a task, in the order of time, and then what happens."""

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from rich.console import Console

from fleet import subjects
from fleet.cli.output import console, literal, print_json, say
from fleet.cli.verdict import count
from fleet.cli.view import in_round
from fleet.client.connection import has_streams_elsewhere, is_tenants
from fleet.client.session import Session, session
from fleet.config import Settings
from fleet.exits import Exit
from fleet.jetstream.payloads import MissingText
from fleet.tenants.names import DEFAULT_TENANT, key_of, key_of_event, tenant_of, without_tenant

SILENT_S = 3.0
"""A history that brings nothing for so long is over: some of it has expired meanwhile."""
CLOCKS_DIFFER_S = 60.0
LOOK_EVERY_S = 5.0
OF_STATUS = {"COMPLETED": subjects.COMPLETED, "CANCELLED": subjects.CANCELLED}
ENDED = dict(zip(subjects.TERMINAL, (Exit.DONE, Exit.FAILED, Exit.FAILED), strict=True))


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it stands in its stream; `fields` is its body."""

    subject: str
    at: datetime
    fields: dict[str, Any]

    @property
    def call(self) -> tuple[Any, ...]:
        """What tells two calls apart."""
        return tuple(self.fields.get(name) for name in ("task_id", "agent_id", "question", "phase", "round", "attempt"))


async def watch_events(settings: Settings, task_id: str | None, *, progress: bool, json_output: bool) -> int:
    """Returns the exit status once the task has ended; without a task it goes on for ever."""
    screen = console(highlight=False, soft_wrap=True)
    async with session(settings) as fleet:
        if await is_tenants(fleet.nc) or await has_streams_elsewhere(fleet.nc):
            return await _as_it_happens(fleet, screen, task_id, progress=progress, json_output=json_output)
        since = await _accepted_at(fleet, task_id) if task_id else None
        queue: asyncio.Queue[Msg] = asyncio.Queue()
        streams = [subjects.DELIBERATIONS, subjects.AGENT_RESPONSES]
        if progress:
            streams.append(subjects.AGENT_PROGRESS_STREAM)
        old = {
            stream: await _subscribe(fleet, stream, queue, since, everything=task_id is not None) for stream in streams
        }
        history, new = await _history(queue, old, task_id)
        past = [event for msg in history if (event := await _event(fleet, msg, task_id))]
        for event in _joined(sorted(past, key=lambda event: event.at)):
            _print(screen, event, json_output)
            if task_id and event.subject in ENDED:
                return ENDED[event.subject]
        while True:
            event_now = await _event(fleet, new.popleft() if new else await queue.get(), task_id)
            if event_now is None:
                continue
            _print(screen, event_now, json_output)
            if task_id and event_now.subject in ENDED:
                return ENDED[event_now.subject]
            if task_id and event_now.subject == subjects.REJECTED:
                return Exit.BAD_REQUEST


async def _as_it_happens(
    fleet: Session, screen: Console, task_id: str | None, *, progress: bool, json_output: bool
) -> int:
    """For tenants and behind a leaf node, where no streams are: what is told from now on, and how it ended before."""
    queue: asyncio.Queue[Msg] = asyncio.Queue()
    for subject in (subjects.ACCEPTED, subjects.REJECTED, *ENDED, *((subjects.AGENT_PROGRESS,) if progress else ())):
        await fleet.nc.subscribe(subject, cb=queue.put)
    state = await _state(fleet, task_id) if task_id else {}
    while True:
        if ended := state.get("result"):
            event = Event(OF_STATUS.get(ended["status"], subjects.FAILED), datetime.now(UTC), ended)
            _print(screen, event, json_output)
            return ENDED[event.subject]
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S if task_id else None):  # its end may be missed
                while True:
                    msg = await queue.get()
                    if not _concerns(msg, task_id):
                        continue
                    if task_id and msg.subject in ENDED:
                        break
                    _print(screen, Event(msg.subject, datetime.now(UTC), await _whole(fleet, msg)), json_output)
                    if task_id and msg.subject == subjects.REJECTED:
                        return Exit.BAD_REQUEST
        if task_id:
            state = msgspec.json.decode(await fleet.result_body(task_id))


async def _accepted_at(fleet: Session, task_id: str) -> datetime:
    """Where in the streams to begin: a little before the task was accepted, or before now, if it has yet to be."""
    state = await _state(fleet, task_id)
    result = state.get("result") or {}
    since = datetime.now(UTC)
    if accepted := state.get("accepted_at") or result.get("accepted_at"):
        since = datetime.fromisoformat(accepted)
    elif result:
        since = datetime.fromisoformat(result["completed_at"]) - timedelta(milliseconds=result["duration_ms"])
    return since - timedelta(seconds=CLOCKS_DIFFER_S)


async def _state(fleet: Session, task_id: str) -> dict[str, Any]:
    """What is known of the task, be it from its event alone; says that it is waited for where nobody knows it."""
    state: dict[str, Any] = msgspec.json.decode((await fleet.stored_body(task_id))[0])
    if state.get("status") == "UNKNOWN":
        say(f"nobody knows a task {task_id!r} yet: waiting until it is accepted (Ctrl-C ends this)", stderr=True)
    return state


async def _history(
    queue: "asyncio.Queue[Msg]", old: dict[str, int], task_id: str | None
) -> tuple[list[Msg], deque[Msg]]:
    """Messages of the task: those of the past, and those that came meanwhile. `old`: by stream, how many of the past
    will come, other tasks' included.
    """
    left, past, new = dict(old), list[Msg](), deque[Msg]()
    with suppress(TimeoutError):
        while any(left.values()):
            async with asyncio.timeout(SILENT_S):
                msg = await queue.get()
            stream = msg.metadata.stream
            is_old = left[stream] > 0
            left[stream] -= is_old
            if _concerns(msg, task_id):
                (past if is_old else new).append(msg)
    return past, new


def _concerns(msg: Msg, task_id: str | None) -> bool:
    return task_id is None or key_of_event(msg.subject, msg.header) == task_id


async def _subscribe(
    fleet: Session, stream: str, queue: "asyncio.Queue[Msg]", since: datetime | None, *, everything: bool
) -> int:
    """Returns how many messages of the past will come."""
    policy = DeliverPolicy.NEW
    if everything:
        policy = DeliverPolicy.BY_START_TIME if since else DeliverPolicy.ALL
    config = _Named(deliver_policy=policy, opt_start_time=since.astimezone(UTC) if since else None)
    subscription = await fleet.js.subscribe("", stream=stream, ordered_consumer=True, config=config, cb=queue.put)
    info = await subscription.consumer_info()
    return (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)


class _Named(ConsumerConfig):
    """Clients may make none without a name. And NATS refuses to make one anew under the name that it had, as nats-py
    does when it has missed something: with each new inbox there is a new name."""

    def __setattr__(self, field: str, value: Any) -> None:
        super().__setattr__(field, value)
        if field == "deliver_subject":
            super().__setattr__("name", f"watch-{secrets.token_hex(8)}")


async def _event(fleet: Session, msg: Msg, task_id: str | None) -> Event | None:
    """None where it belongs to another task."""
    if not _concerns(msg, task_id):
        return None
    fields = await _whole(fleet, msg)
    tenant = tenant_of(msg.subject)
    if "task_id" in fields and tenant != DEFAULT_TENANT:
        fields["task_id"] = key_of(tenant, str(fields["task_id"]))
    return Event(without_tenant(msg.subject), msg.metadata.timestamp, fields)


async def _whole(fleet: Session, msg: Msg) -> dict[str, Any]:
    """The body, with every text in it; where one is gone, what is left."""
    try:
        return await fleet.completed(msgspec.json.decode(await fleet.texts.inline(msg.data)))
    except MissingText:
        fields: dict[str, Any] = msgspec.json.decode(msg.data)
        return fields


def _joined(events: Iterable[Event]) -> list[Event]:
    """The progress of the past: one event per call, with its whole text, where its first one was."""
    calls: dict[tuple[Any, ...], Event] = {}
    joined: list[Event] = []
    for event in events:
        if event.subject != subjects.AGENT_PROGRESS:
            joined.append(event)
        elif (first := calls.get(event.call)) is None:
            calls[event.call] = event
            joined.append(event)
        else:
            first.fields.update({**event.fields, "text_delta": first.fields["text_delta"] + event.fields["text_delta"]})
    return joined


def _print(screen: Console, event: Event, json_output: bool) -> None:
    if json_output:
        print_json({"subject": event.subject, "at": event.at.isoformat(), "event": event.fields})
        return
    at = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    screen.print(f"[dim]{at}[/dim]  [bold]{literal(str(event.fields.get('task_id')))}[/bold]  {_line(event)}")


def _line(event: Event) -> str:
    fields: dict[str, Any] = {
        name: literal(value) if isinstance(value, str) else value for name, value in event.fields.items()
    }
    call = f"{fields.get('agent_id')}  {in_round(str(fields.get('phase')), fields.get('round', 0))}"
    match event.subject:
        case subjects.AGENT_PROGRESS:
            text = " ".join(str(fields["text_delta"]).split())
            return f"{call}  [dim]{fields['progress_pct']:3d} %  {text or fields['message']}[/dim]"
        case subjects.AGENT_COMPLETED:
            return f"{call}  [green]done[/green] in {fields['duration_ms'] / 1000:.1f} s"
        case subjects.AGENT_FAILED:
            return f"{call}  [red]failed[/red]: {fields['error']}"
        case subjects.ACCEPTED:
            return f"[cyan]accepted[/cyan]: {count(len(fields['agents']), 'agent')}, {count(fields['rounds'], 'round')}"
        case subjects.REJECTED:
            return f"[red]rejected[/red] ({fields['code']}): {fields['error']}"
        case subjects.COMPLETED:
            best = fields["results"][0]
            score = "not scored" if best["score"] is None else f"score {best['score']:.2f} of 10"
            degraded = ", degraded" if fields["degraded"] else ""
            cached = f", the result of {fields['cached_from']}" if fields.get("cached_from") else ""
            return f"[green]completed[/green]: {fields['winner_id']} comes first, {score}{degraded}{cached}"
        case subjects.CANCELLED:
            return f"[yellow]cancelled[/yellow]: {fields['reason']}"
        case _:
            return f"[red]{fields.get('status', event.subject)}[/red]: {fields.get('error', '')}"
