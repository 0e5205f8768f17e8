"""A backup is taken stream by stream, while deliberations run: restored on an empty server, each of them ends once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.local.nats_server import EmbeddedNats
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, without_workers
from tests.support.nats.natscli import nats_cli, run
from tests.support.variants import some_of
from tests.support.waiting import until

STREAMS = (
    subjects.DELIBERATION_REQUESTS,
    subjects.DELIBERATIONS,
    subjects.DELIBERATION_CONTROL,
    subjects.AGENT_REQUESTS,
    subjects.AGENT_RESPONSES,
    subjects.STATES,
)
RUNNING = 3


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nats_cli(tmp_path_factory.mktemp("natscli"))


async def some_end(fleet: Fleet, name: str) -> None:
    async with agents.answering(fleet.nc):
        for number in range(2):
            await fleet.request(task_id=f"{name}-{number}", num_agents=1)
            await fleet.inbox.next(subjects.COMPLETED, task_id=f"{name}-{number}")


async def some_begin(fleet: Fleet) -> None:
    for number in range(RUNNING):
        await fleet.request(task_id=f"running-{number}", num_agents=2)
        await fleet.inbox.next(subjects.ACCEPTED, task_id=f"running-{number}")


async def schedules(fleet: Fleet) -> int:
    info = await fleet.nc.jetstream().stream_info(
        subjects.DELIBERATION_CONTROL, subjects_filter=subjects.schedule_of("*")
    )
    return len(info.state.subjects or ())


async def ends(fleet: Fleet) -> Counter[str]:
    """How many terminal events the stream holds of each task."""
    js = fleet.nc.jetstream()
    found: Counter[str] = Counter()
    for sequence in range(1, (await js.stream_info(subjects.DELIBERATIONS)).state.last_seq + 1):
        msg = await js.get_msg(subjects.DELIBERATIONS, sequence)
        if msg.subject in subjects.TERMINAL:
            found[str(json.loads(msg.data or b"{}")["task_id"])] += 1
    return found


@some_of(
    1,
    ("older", "with_key"),
    [
        *(pytest.param(stream, True, marks=pytest.mark.slow) for stream in STREAMS if stream != subjects.STATES),
        (subjects.STATES, True),
        (subjects.DELIBERATIONS, False),
    ],
)
async def test_each_task_ends_once_whichever_stream_was_saved_first(
    older: str, with_key: bool, binary: Path, tmp_path: Path
) -> None:
    """What happened between the first stream of the backup and the others is in the others only. Without the key of
    call tokens the calls of the backup are asked again.
    """
    also = (subjects.KEYS_STREAM,) if with_key else ()

    async def by_hand(url: str, *words: Any) -> None:
        status, out = await run(binary, url, *map(str, words))
        assert status == 0, out

    first, second = EmbeddedNats(tmp_path / "first"), EmbeddedNats(tmp_path / "second")
    saved = tmp_path / "backup"
    try:
        await first.start()
        async with without_workers(first.url) as fleet:
            await some_end(fleet, "before")
            await by_hand(first.url, "stream", "backup", older, saved / older)
            await some_end(fleet, "between")
            await some_begin(fleet)
            for stream in {*STREAMS, *also} - {older}:
                await by_hand(first.url, "stream", "backup", stream, saved / stream)
        await second.start()
        for stream in (*STREAMS, *also):
            await by_hand(second.url, "stream", "restore", saved / stream)
        running = [f"running-{number}" for number in range(RUNNING)]
        known = [f"{name}-{number}" for name in ("before", "between") for number in range(2)] + running
        async with without_workers(second.url) as fleet:

            async def has_deadlines() -> bool:
                return await schedules(fleet) >= RUNNING

            async def has_ends() -> bool:
                return (await ends(fleet)).keys() == {*known}

            if older != subjects.STATES:
                await until(has_deadlines)
            async with agents.answering(fleet.nc):
                for task_id in running:
                    code, reply = await fleet.ask(subjects.RESULT, {"task_id": task_id, "wait_seconds": 20})
                    assert (code, "result" in reply) == (None, True), reply
            await until(has_ends)
            assert await ends(fleet) == Counter(known)
            assert await schedules(fleet) == 0
    finally:
        await first.stop()
        await second.stop()
