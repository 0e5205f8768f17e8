"""Declares several things at once: each takes the server a round trip, or a few."""

import asyncio
from collections.abc import Awaitable, Iterable


async def all_at_once(steps: Iterable[Awaitable[None]]) -> None:
    """Raises the first error, in the order of `steps`, once all have ended."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
