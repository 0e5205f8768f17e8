"""An older and a newer version on the same streams: what the newer one wrote is left for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats

from fleet import subjects
from fleet.config import load
from fleet.deliberation.events import CallAgent
from fleet.deliberation.machine import due
from fleet.deliberation.state import SCHEMA_VERSION, Deliberation
from fleet.jetstream import topology
from fleet.messages import AgentRequested, decode, encode
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.waiting import WITHIN_S, until, until_consumer

RECORDED = Path(__file__).parents[2] / "recorded"
NEWER = SCHEMA_VERSION + 1


async def test_an_answer_to_a_newer_state_waits_for_a_newer_process(nats_url: str) -> None:
    """It changes nothing, is no dead letter, and is applied as soon as somebody understands the state."""
    held: list[AgentRequested] = []
    async with running(nats_url, held.append) as fleet:
        js = fleet.nc.jetstream()
        bucket = await js.key_value(subjects.BUCKET)
        await fleet.request(task_id="newer", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="newer")
        await until(lambda: held)  # the calls are on their way
        entry = await bucket.get("newer")
        newer = encode({**json.loads(entry.value or b""), "schema": NEWER, "calls": ["of another shape"]})
        revision = await bucket.update("newer", newer, last=entry.revision)

        await agents.publish(js, agents.answer(held[0]))
        code, reply = await fleet.ask(subjects.RESULT, "newer")
        assert code == "503"
        assert f"schema {NEWER}" in reply["error"]
        await deliveries(js, 3)
        assert (await bucket.get("newer")).value == newer
        assert (await js.stream_info(subjects.DEAD_LETTERS)).state.messages == 0

        await bucket.update("newer", entry.value or b"", last=revision)  # as a newer process would understand it
        done = await fleet.inbox.next(subjects.COMPLETED, task_id="newer")
        assert done["winner_id"] == held[0].agent_id


async def deliveries(js: Any, count: int) -> None:
    """Waits until the answer has been handed to collectors that often."""
    names = (subjects.AGENT_RESPONSES, subjects.COLLECTOR)
    await until_consumer(js, *names, lambda info: info.delivered.consumer_seq >= count)


async def test_durables_of_an_older_version_get_one_filter_and_keep_what_waits(nats_url: str) -> None:
    """An older version had two."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, load({}))
    older = {
        (subjects.AGENT_RESPONSES, subjects.COLLECTOR): [subjects.AGENT_COMPLETED, subjects.AGENT_FAILED],
        (subjects.DELIBERATION_CONTROL, subjects.CONTROLLER): [subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE],
    }
    for (stream, durable), filters in older.items():
        wanted = (await js.consumer_info(stream, durable)).config
        await js.delete_consumer(stream, durable)
        await js.add_consumer(stream, wanted.evolve(filter_subject=None, filter_subjects=filters))
        for subject in filters:
            await js.publish(subject, b"{}")
    await topology.declare(js, load({}))
    for (stream, durable), filter_ in zip(older, (subjects.AGENT_RESPONSE, subjects.CONTROL), strict=True):
        info = await js.consumer_info(stream, durable)
        assert (info.config.filter_subject, info.config.filter_subjects, info.num_pending) == (filter_, None, 2)
    await nc.close()


async def test_what_an_older_version_began_is_finished(nats_url: str) -> None:
    """Its states, in every phase, and their open calls are there when this version takes over.

    Its calls carry no token, so that no answer to them counts: they are asked again, also those that a worker has.
    Nothing is told twice.
    """
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, load({}))
    await js.delete_stream(subjects.KEYS_STREAM)  # an older version had none
    bucket = await js.key_value(subjects.BUCKET)
    states = list(begun("0.1.0.dev0"))
    open_calls = []
    for state in states:
        await bucket.create(state["task_id"], encode(state))
        for effect in due(decode(encode(state), Deliberation)):
            if isinstance(effect, CallAgent):
                call = effect.request
                await js.publish(subjects.AGENT_REQUESTED, encode(call), headers={"Nats-Msg-Id": call.msg_id})
                open_calls.append(call)
    worker = await js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
    taken: list[Any] = []
    while len(taken) < len(open_calls):
        taken += await worker.fetch(len(open_calls) - len(taken), timeout=WITHIN_S)
    async with running(nats_url, agents.answer) as fleet:
        for call, msg in zip(open_calls, taken, strict=True):
            await js.publish(subjects.AGENT_COMPLETED, encode(agents.answer(call, text="of no use")))
            assert decode(msg.data, AgentRequested) == call
        for state in states:
            done = await fleet.inbox.next(subjects.COMPLETED, task_id=state["task_id"])
            assert done["degraded"] is bool(state["failures"])
            assert "of no use" not in json.dumps(done)
        ends = [body["task_id"] for subject, _, body in fleet.inbox.events if subject in subjects.TERMINAL]
        assert sorted(ends) == sorted(state["task_id"] for state in states)
    await nc.close()


def begun(version: str) -> Iterator[dict[str, Any]]:
    """States as they were written, each of another task, and with time left (what NATS can count in nanoseconds)."""
    for index, record in enumerate(json.loads((RECORDED / version / "states.json").read_text())):
        if record["state"]["result"] is None:
            yield {**record["state"], "task_id": f"older-{index}", "deadline_at": "2199-01-01T00:00:00.000Z"}
