"""Counts the terminal events of each task. As a program it prints them, wherever there is a fleet's package."""

import asyncio
import json
import sys
from collections import Counter
from contextlib import aclosing

from fleet.client import connect
from fleet.jetstream.history import events
from fleet.subjects import TERMINAL


async def count(url: str | None = None) -> Counter[str]:
    """Task -> how many terminal events the stream holds of it. `url`: of NATS, instead of that of the environment."""
    counted: Counter[str] = Counter()
    async with connect(url) as fleet, aclosing(events(fleet.js, TERMINAL, None)) as found:
        async for msg in found:
            counted[(msg.headers or {})["Task-Id"]] += 1
    return counted


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(count())))
