"""What happens where a stream reaches its `max_bytes`. Nothing that is owed is lost: before that, requests wait.

stream                                 at the limit
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
DELIBERATION_REQUESTS                  the publisher of a request gets an error
AGENT_REQUESTS, states, texts, answers refuse what is new; requests wait from `HOLD_AT` of the limit on; before that
                                       the oldest states of ended tasks are deleted (`control.states.room`)
DELIBERATION_CONTROL                   the oldest go, for NATS has scheduled messages in no other kind of stream;
                                       requests wait from `HOLD_AT` on
AGENT_RESPONSES                        the oldest go; requests wait while what no collector has handled makes up
                                       `HOLD_UNHANDLED_AT` of the limit
DELIBERATIONS, AGENT_PROGRESS,         the oldest go: that is history
DEAD_LETTERS, deliberation-cache
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from fleet import subjects

HOLD_AT: Final = 0.8
"""The rest is for the deliberations that are in progress."""
HOLD_UNHANDLED_AT: Final = 0.4
"""Each open call may add an answer."""
HOLDING: Final = (
    subjects.DELIBERATION_CONTROL,
    subjects.AGENT_REQUESTS,
    subjects.STATES,
    subjects.TEXTS_STREAM,
    subjects.ANSWERS_STREAM,
)


def fullness(info: StreamInfo) -> float:
    """What a stream holds, as a share of its limit of bytes; 0 without one."""
    most = info.config.max_bytes or 0
    return info.state.bytes / most if most > 0 else 0.0


async def shortage(js: JetStreamContext, known: Mapping[str, StreamInfo] | None = None) -> str | None:
    """Why no deliberation should begin now; None: there is room. `known`: what NATS has just said of all streams."""
    names = (*HOLDING, subjects.AGENT_RESPONSES)
    infos = [known[name] for name in names] if known else await asyncio.gather(*map(js.stream_info, names))
    for info in infos[:-1]:
        if (share := fullness(info)) >= HOLD_AT:
            return f"{info.config.name} holds {share:.0%} of its max_bytes: requests wait"
    answers = infos[-1]
    if fullness(answers) < HOLD_UNHANDLED_AT or not answers.state.messages:
        return None
    reader = await js.consumer_info(subjects.AGENT_RESPONSES, subjects.COLLECTOR)
    unhandled = ((reader.num_pending or 0) + (reader.num_ack_pending or 0)) / answers.state.messages
    if (share := fullness(answers) * unhandled) >= HOLD_UNHANDLED_AT:
        return f"{subjects.AGENT_RESPONSES}: {share:.0%} of its max_bytes are answers not yet handled: requests wait"
    return None
