"""Builds the headers of published messages: message id, trace context, CloudEvents in binary mode."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from fleet.clock import now_ms
from fleet.messages.trace_ids import context_of
from fleet.times import rfc3339

REASON: Final = "Dead-Letter-Reason"
CALL_TOKEN: Final = "Call-Token"
"""Of a call, and of its answer: who answers has been given the call."""
MEDIA_TYPE: Final = "application/json"
MAX_LINE_BYTES: Final = 1000
MAX_KEPT_BYTES: Final = 4096
"""Limit of a client's own headers. With those of the fleet they fit into what is kept free of `max_payload`."""
TRACEPARENT_CHARACTERS = 55
"""Of the version that is known; later ones may add to it."""
_UNQUOTED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What CloudEvents leaves as it is in a header; the rest is percent-encoded UTF-8."""
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""Header names that nats-py can send; it receives others, too."""


def headers(subject: str, msg_id: str, source: str, task_id: str, traceparent: str) -> dict[str, str]:
    """`source` is `/fleet/<component>`; `msg_id` is deterministic, so that JetStream drops a repetition.

    `content-type` is what CloudEvents over HTTP calls the data's type; over NATS it is an attribute like the others.
    """
    return {
        "Nats-Msg-Id": msg_id,
        "traceparent": traceparent,
        "Task-Id": task_id,
        "content-type": MEDIA_TYPE,
        "ce-id": msg_id,
        "ce-source": source,
        "ce-type": subject,
        "ce-subject": quote(task_id, safe=_UNQUOTED),
        "ce-specversion": "1.0",
        "ce-datacontenttype": MEDIA_TYPE,
        "ce-time": rfc3339(now_ms()),
    }


def traceparent_in(sent: Mapping[str, Any] | None) -> str | None:
    """The trace context that these headers carry, as far as it is one: it is stored and sent on."""
    value = str((sent or {}).get("traceparent", ""))
    return value[:TRACEPARENT_CHARACTERS] if context_of(value) is not None else None


def of_dead_letter(
    original: Mapping[str, Any] | None, *, stream: str, sequence: int, run: str, reason: str
) -> dict[str, str]:
    """Headers of a dead letter: the original's, the reason, and the stream and sequence it came from.

    `run`: when it was stored there. A stream that was set back gives out its sequences again.
    """
    return republishable(original) | {
        REASON: line(reason),
        "Dead-Letter-Stream": stream,
        "Dead-Letter-Sequence": str(sequence),
        "Nats-Msg-Id": f"{stream}.{sequence}.{run}",
    }


def line(text: str) -> str:
    """One line of text, short enough for a header."""
    return " ".join(text.split()).encode(errors="replace")[:MAX_LINE_BYTES].decode(errors="ignore")


def republishable(original: Mapping[str, Any] | None) -> dict[str, str]:
    """Headers that can be published again: without `Nats-*` (they would take effect again) and invalid names, and no
    more than `MAX_KEPT_BYTES`.
    """
    kept: dict[str, str] = {}
    left = MAX_KEPT_BYTES
    for name, value in (original or {}).items():
        text = str(value)
        left -= len(name) + len(text.encode(errors="replace")) + len(": \r\n")
        if left < 0:
            break
        if _NAME.fullmatch(name) and not name.lower().startswith("nats-"):
            kept[name] = text
    return kept
