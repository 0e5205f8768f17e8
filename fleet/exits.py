"""Defines the exit statuses of the commands."""

from enum import IntEnum


class Exit(IntEnum):
    """Fixed by the contract, but for `UNFINISHED` (`fleet result` of a task that still runs)."""

    DONE = 0
    FAILED = 1
    BAD_REQUEST = 2
    UNREACHABLE = 3
    UNFINISHED = 4
    INTERRUPTED = 130
