"""Filling the store of a fleet for `fleet bench scale`, on a real nats-server."""

from pathlib import Path

import nats

from fleet import subjects
from fleet.bench.growth import copies
from fleet.bench.growth.copies import Pattern, StoredMessage
from fleet.control.states.store import KeyValueStore
from fleet.deliberation.state import Deliberation
from fleet.jetstream.payloads import Texts
from fleet.local.nats_server import SYNC_INTERVAL, EmbeddedNats
from fleet.messages import DeliberationCompleted, encode
from tests.support.council import begin, run_to_end

COUNT = 2 * copies.AT_ONCE + 1
RESPONSES = 3


def pattern() -> Pattern:
    """Of a deliberation played in the pure core."""
    task_id = "bench-kept-0123456789"
    state, _ = run_to_end(begin(num_agents=RESPONSES, rounds=0))
    state = state.change(task_id=task_id)
    assert isinstance(state.result, DeliberationCompleted)
    headers = {"Task-Id": task_id, "Nats-Msg-Id": f"{task_id}.terminal"}
    responses = [StoredMessage(subjects.AGENT_RESPONSES, subjects.AGENT_COMPLETED, b"{}", headers)] * RESPONSES
    return Pattern(
        task_id,
        [
            StoredMessage(subjects.STATES, f"$KV.{subjects.BUCKET}.{task_id}", encode(state), {}),
            StoredMessage(subjects.DELIBERATIONS, subjects.COMPLETED, encode(state.result), headers),
            *responses,
        ],
    )


async def test_copies_are_what_a_fleet_leaves_behind(nats_binary: None, tmp_path: Path) -> None:
    """Each state can be read under its id, every event is there, and no answer waits for a collector."""
    original = pattern()
    assert await copies.fill(tmp_path, original, COUNT) > 0
    server = EmbeddedNats(tmp_path)
    nc = await nats.connect(await server.start())
    try:
        js = nc.jetstream()
        store = await KeyValueStore.open(js, Texts(js, nc.max_payload))
        for number in (0, copies.AT_ONCE, COUNT - 1):
            task_id = original.copy(number)[0].subject.rpartition(".")[2]
            found = await store.load(task_id)
            assert found is not None
            assert isinstance(found.state, Deliberation)
            assert (found.state.task_id, found.state.ended) == (task_id, True)
        counts = {stream: (await js.stream_info(stream)).state.messages for stream in copies.KEPT_IN}
        assert list(counts.values()) == [COUNT, COUNT, RESPONSES * COUNT]
        collector = await js.consumer_info(subjects.AGENT_RESPONSES, subjects.COLLECTOR)
        assert (collector.num_pending, collector.num_ack_pending) == (0, 0)
    finally:
        await nc.close()
        await server.stop()


async def test_only_filling_does_without_syncing(nats_binary: None, tmp_path: Path) -> None:
    """The server that is measured later is started with the interval that every fleet has."""
    filling, usual = EmbeddedNats(tmp_path, sync_interval=copies.SELDOM), EmbeddedNats(tmp_path)
    wanted = f'sync_interval: "{SYNC_INTERVAL}"\n'
    for server, syncs in ((filling, False), (usual, True)):
        await server.start()
        assert (wanted in server.config_file.read_text()) is syncs
        await server.stop()
