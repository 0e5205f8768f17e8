"""Tasks that do not end as they are told to."""

import asyncio


async def drops_one_cancellation() -> None:
    """Ends with the second."""
    is_dropped = False
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if is_dropped:
                raise
            is_dropped = True
