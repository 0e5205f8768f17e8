"""Keeps the calls of a worker within the files that its process may have open: each is a connection to a server."""

import resource

import structlog

log = structlog.get_logger(__name__)

PER_CALL = 2
"""A call that is slow is asked for at a second server, too."""
OTHERS = 128
"""NATS, logs, checking processes, and what Ray opens."""
FEWEST = 8


def calls_with_room(calls: int) -> int:
    """How many of `calls` may be open at once. The soft limit is raised for them as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = calls * PER_CALL + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return calls
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    room = max(min(calls, (limit - OTHERS) // PER_CALL), FEWEST)
    if room < calls:
        log.warning("worker.few_open_files", limit=limit, needed=needed, calls=room, wanted=calls)
    return room
