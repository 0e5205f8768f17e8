"""Translates between Synadia's agent protocol and deliberations: prompts, chunks and errors.

A prompt is `{"prompt": …}` or plain text. A chunk is `{"type", "data"}`; a caller joins the texts of type `response`.
What happens meanwhile has the type `status`, which callers show or ignore: it is no part of an answer.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from fleet.control.service.calls import ServiceFault
from fleet.messages import (
    UNDECODABLE,
    AllFailed,
    DeliberationCancelled,
    DeliberationCompleted,
    DeliberationRejected,
    FollowReply,
    PromptAnswer,
    PromptError,
    PromptFacts,
    PromptFile,
    PromptRequest,
    PromptStatus,
    PromptText,
    ResultReply,
    TimedOut,
    decode,
    encode,
)
from fleet.undecodable import why_undecodable

MOST_BYTES: Final = 512 * 1024
"""Of a prompt. Its text has at most 65,536 characters, which are 393,216 bytes where JSON escapes each."""
FACTS: Final = "deliberation.json"
_PIECE: Final = 32_768
_MOST_BYTES_OF_A_CHARACTER: Final = 6
_CODES: Final = {400: "bad_request", 404: "not_found", 409: "conflict", 503: "unavailable", 504: "not_ended"}
_REJECTIONS: Final = {"conflict": 409, "forbidden": 403, "budget": 429}
_OWN: Final = ("task_description", "content_ref")


class _Sent(PromptRequest, frozen=True, kw_only=True):
    attachments: list[Any] | None = None


def request_in(data: bytes) -> bytes:
    """The body of `deliberation.requested` that a prompt stands for. Faults 400."""
    if len(data) > MOST_BYTES:
        raise _bad(f"bad prompt: it has {len(data):,} bytes, at most {MOST_BYTES:,} are taken")
    try:
        sent = _sent(data)
    except UNDECODABLE as error:
        raise _bad(f"bad prompt: {why_undecodable(error, data)}") from None
    if not sent.prompt.strip():
        raise _bad("bad prompt: it is empty")
    if sent.attachments:
        raise _bad("bad prompt: attachments are not taken")
    further = sent.deliberation or {}
    for name in _OWN:
        if name in further:
            raise _bad(f"bad prompt: $.deliberation.{name}: the text stands in $.prompt")
    return encode({**further, "task_description": sent.prompt})


def _sent(data: bytes) -> _Sent:
    if data.lstrip(b" \t\r\n")[:1] == b"{":
        return decode(data, _Sent)
    return _Sent(prompt=data.decode())


def _bad(text: str) -> ServiceFault:
    return ServiceFault(400, text, PromptError(error="bad_request", message=text))


def status_of(reply: ResultReply | FollowReply) -> PromptStatus:
    """`task_id=d-7 status=PENDING`, or `phase=critique round=1 done=2 expected=3`."""
    shown: dict[str, Any] = {}
    if isinstance(reply, ResultReply):
        shown = {"task_id": reply.task_id, "status": reply.status}
    else:
        shown = {name: getattr(reply, name) for name in ("phase", "round", "done", "expected", "agent_id", "outcome")}
    return PromptStatus(data=" ".join(f"{name}={value}" for name, value in shown.items() if value is not None))


def answer_of(event: DeliberationCompleted, text: str, most_bytes: int) -> Iterator[PromptAnswer]:
    """The winner's text in pieces that fit a message; with the last one comes what stands behind it."""
    size = max(1, min(_PIECE, most_bytes // (2 * _MOST_BYTES_OF_A_CHARACTER)))
    starts = range(0, len(text), size)
    for start in starts:
        last = start == starts[-1]
        yield PromptAnswer(
            data=PromptText(text=text[start : start + size], attachments=(_file(facts_of(event)),) if last else ())
        )


def _file(facts: PromptFacts) -> PromptFile:
    return PromptFile(filename=FACTS, content=base64.b64encode(encode(facts)).decode())


def facts_of(event: DeliberationCompleted) -> PromptFacts:
    """The same as the event has."""
    first = event.ranked[0]
    return PromptFacts(
        task_id=event.task_id,
        winner_id=event.winner_id,
        score=first.score,
        p_best=first.p_best,
        degraded=event.degraded,
        missing=event.missing,
        failed_calls=dict(sorted(Counter(call.error_type for call in event.failed_agents).items())),
        proposals=event.successful_responses,
        rounds_run=event.rounds_run,
        truncated=first.proposal.truncated,
        model=first.proposal.model,
        usage=event.usage,
        cost=event.cost,
        duration_ms=event.duration_ms,
        cached_from=event.cached_from,
        correlation=event.correlation,
    )


def fault_of(event: AllFailed | TimedOut | DeliberationCancelled) -> ServiceFault:
    """No answer: the task has ended without one."""
    match event:
        case AllFailed():
            name, text = "deliberation_failed", event.error
        case TimedOut():
            name, text = "deliberation_timeout", event.error
        case DeliberationCancelled():
            name, text = "deliberation_cancelled", event.reason
    return ServiceFault(500, text, PromptError(error=name, message=text, task_id=event.task_id))


def refused(fault: ServiceFault) -> ServiceFault:
    """With one of the protocol's codes, and a body of its form."""
    body = fault.body
    if isinstance(body, PromptError):
        return fault
    if isinstance(body, DeliberationRejected):
        code, name, task_id = _REJECTIONS.get(body.code, 400), str(body.code), body.task_id
    else:
        code, name = fault.code if fault.code < 500 else 500, _CODES.get(fault.code, "internal")
        task_id = body.get("task_id")
    return ServiceFault(code, fault.text, PromptError(error=name, message=fault.text, task_id=task_id))
