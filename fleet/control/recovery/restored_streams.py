"""Notices that the contents of a stream are not what they were: it was restored, set back, or purged by an operator.

what was done                            how it shows
─────────────────────────────────────────────────────────────────────────────────────────
removed, and restored or made anew       the stream was created at another time
its files were put back                  its last sequence is smaller
purged, as a whole or by a pattern       the request for it, which NATS delivers to whoever listens
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.js.api import StreamInfo

from fleet import subjects
from fleet.control.recovery.lost_streams import LostStreams
from fleet.messages import UNDECODABLE
from fleet.tenants.names import holds_requests

log = structlog.get_logger(__name__)

HELD = (subjects.DELIBERATION_CONTROL, subjects.AGENT_REQUESTS, subjects.AGENT_RESPONSES, subjects.DELIBERATIONS)
WATCHED = frozenset({*HELD, subjects.STATES, subjects.TEXTS_STREAM, subjects.KEYS_STREAM})
"""Those in which deliberations stand, and the key of their calls; beside them those of requests."""


def _is_watched(name: str) -> bool:
    return name in WATCHED or holds_requests(name)


class _Purge(msgspec.Struct, frozen=True):
    """What a purge is limited to."""

    filter: str = ""


@dataclass(frozen=True, slots=True)
class _StreamPosition:
    created: datetime | None
    last_sequence: int


class RestoredStreams:
    """Notices, for one process, what was done to streams by hand."""

    def __init__(self, lost_streams: LostStreams) -> None:
        self._lost_streams = lost_streams
        self._seen: dict[str, _StreamPosition] = {}

    def look(self, name: str, info: StreamInfo) -> None:
        """Compares what NATS says of a stream with what it said at the last look."""
        now, before = _StreamPosition(info.created, info.state.last_seq), self._seen.get(name)
        self._seen[name] = now
        if not _is_watched(name) or before is None:
            return
        if now.created != before.created or now.last_sequence < before.last_sequence:
            self._notice(name, f"its last sequence was {before.last_sequence}, and is {now.last_sequence}")

    async def on_purge(self, msg: Msg) -> None:
        """The fleet itself purges one subject at a time."""
        name = msg.subject.removeprefix(subjects.purge_of(""))
        try:
            purge = msgspec.json.decode(msg.data, type=_Purge) if msg.data else _Purge()
        except UNDECODABLE:
            return  # NATS refuses it
        if _is_watched(name) and (not purge.filter or subjects.is_pattern(purge.filter)):
            self._notice(name, f"purged{f' of {purge.filter}' if purge.filter else ''}")

    def _notice(self, name: str, reason: str) -> None:
        log.warning("stream.set_back", stream=name, reason=reason)
        self._lost_streams.after_restore()
