"""Makes a terminal event fit one message: its longest texts go to the object store, and it refers to them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fleet.jetstream.payloads import Texts
from fleet.messages import (
    AcceptedTask,
    ContentRef,
    DeliberationCompleted,
    Policy,
    TerminalEvent,
    encode,
    key_of_event,
)


@dataclass(frozen=True, slots=True)
class _Part:
    """What can be moved. `refer`: the event with a reference in its place."""

    name: str
    text: bytes
    refer: Callable[[TerminalEvent, ContentRef], TerminalEvent]


async def fitting(texts: Texts, event: TerminalEvent) -> bytes:
    """The event as JSON, with as many of its parts moved as it takes, the longest first."""
    body = encode(event)
    if not texts.too_large(body):
        return body
    for part in sorted(_parts(event), key=lambda part: -len(part.text)):
        event = part.refer(event, await texts.put(f"tasks/{key_of_event(event)}/{part.name}", part.text))
        body = encode(event)
        if not texts.too_large(body):
            break
    return body


def _parts(event: TerminalEvent) -> Iterator[_Part]:
    if (task := event.task) is not None:
        yield _Part("task", encode(task), lambda event, ref: event.change(task=_short(task, ref)))
    if isinstance(event, DeliberationCompleted):
        for index, result in enumerate(event.results):
            yield _Part(result.agent_id, result.proposal.content.encode(), _proposal(index))
            for place, text in enumerate(result.earlier):
                yield _Part(f"{result.agent_id}.{text.round}", text.content.encode(), _earlier(index, place))


def _short(task: AcceptedTask, ref: ContentRef) -> AcceptedTask:
    return task.change(
        task_description="",
        constraints=task.constraints.change(requirements=(), metadata={}, policy=Policy(), reference=None),
        options=task.options.change(output_schema=None),
        content_ref=ref,
    )


def _proposal(index: int) -> Callable[[TerminalEvent, ContentRef], TerminalEvent]:
    def refer(event: TerminalEvent, ref: ContentRef) -> TerminalEvent:
        assert isinstance(event, DeliberationCompleted)
        results = list(event.results)
        proposal = results[index].proposal.change(content="", content_ref=ref)
        results[index] = results[index].change(proposal=proposal)
        return event.change(results=tuple(results))

    return refer


def _earlier(index: int, place: int) -> Callable[[TerminalEvent, ContentRef], TerminalEvent]:
    def refer(event: TerminalEvent, ref: ContentRef) -> TerminalEvent:
        assert isinstance(event, DeliberationCompleted)
        results = list(event.results)
        earlier = list(results[index].earlier)
        earlier[place] = earlier[place].change(content="", content_ref=ref)
        results[index] = results[index].change(earlier=tuple(earlier))
        return event.change(results=tuple(results))

    return refer
