"""A child that dies is started again, and where that cannot go on, whoever supervises hears of it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from fleet.local import supervisor
from fleet.local.supervisor import Child
from tests.support.waiting import WITHIN_S

READY = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]


@asynccontextmanager
async def running(on_restart: Callable[[], None]) -> AsyncIterator[Child]:
    child = Child("test", lambda: READY, on_restart=on_restart)
    await child.start()
    try:
        async with asyncio.timeout(WITHIN_S):
            yield child
    finally:
        await child.stop(0)


async def test_a_full_disk_ends_no_supervision() -> None:
    """Where a restart cannot be noted, the child is started again the next time, too."""
    restarts = asyncio.Queue[None]()

    def note() -> None:
        restarts.put_nowait(None)
        raise OSError("no space left on device")

    async with running(note) as child:
        for _ in range(2):
            child.kill()
            await restarts.get()


async def test_a_defect_of_the_supervision_is_raised() -> None:
    """The child would not be started again: its owner must end, too."""

    def broken() -> None:
        raise ZeroDivisionError

    async with running(broken) as child:
        child.kill()
        with pytest.raises(ZeroDivisionError):
            await child.defect()


async def test_a_child_that_is_slow_to_start_is_named_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits on a busy machine knows for what."""
    monkeypatch.setattr(supervisor, "SLOW_AFTER_S", 0.0)
    with capture_logs() as logs:
        async with running(lambda: None):
            pass
    assert [entry["child"] for entry in logs if entry["event"] == "child.slow"] == ["test"]
