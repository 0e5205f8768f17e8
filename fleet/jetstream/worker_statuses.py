"""Reads what workers tell of themselves."""

import asyncio
import json
from typing import Any

from fleet import subjects
from fleet.messages import UNDECODABLE, decode
from fleet.messages.workers import WorkerStatus

WITHIN_S = 2.0

_STREAM = f"KV_{subjects.WORKERS_BUCKET}"
_KEYS = subjects.status_of("")


async def look(nc: Any) -> tuple[WorkerStatus, ...] | None:
    """The workers that have told something within the last minute; None where that cannot be read."""
    try:
        question = json.dumps({"subjects_filter": f"{_KEYS}>"}).encode()
        info = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{_STREAM}", question, timeout=WITHIN_S)).data)
        keys = (info.get("state") or {}).get("subjects") or {}
        gets = (nc.request(f"$JS.API.DIRECT.GET.{_STREAM}.{key}", b"", timeout=WITHIN_S) for key in sorted(keys))
        answers = await asyncio.gather(*gets)
    except Exception:  # permissions, an older fleet: nobody else's concern
        return None
    return tuple(status for answer in answers if (status := _read(answer.data)) is not None)


def _read(data: bytes) -> WorkerStatus | None:
    try:
        return decode(data, WorkerStatus)
    except UNDECODABLE:
        return None  # forgotten meanwhile
