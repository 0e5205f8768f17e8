"""Implements the baseline `bare`: the same work, as durable, in plain nats-py and aiohttp; no FastStream, no Ray.

Every step survives the death of the process: the request, each call, each answer, the state and the result are in
JetStream before the step before is acknowledged. Answers are gathered in memory and acknowledged once the state that
holds all of them is written. What it does not have is everything else: no deadline, no cancellation, no retries, no
progress, no reviews, no checks, and one process.

    python -m fleet.bench.speed.bare NATS_URL VLLM_URL
"""

import asyncio
import json
import sys
from typing import Any

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from nats.js.kv import KeyValue

from fleet.bench.speed import calls

REQUESTED, CALL, ANSWER, COMPLETED = "bare.requested", "bare.call", "bare.answer", "bare.completed"
BUCKET = "bare"
MAX_TOKENS = 1024


class Bare:
    """Dispatches, calls, and collects."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue, url: str, model: str) -> None:
        self._js = js
        self._bucket = bucket
        self._url = url
        self._model = model
        self._http = calls.session()
        self._states: dict[str, tuple[dict[str, Any], int]] = {}
        self._gathered: dict[str, list[tuple[dict[str, Any], Msg]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_request(self, msg: Msg) -> None:
        request = json.loads(msg.data)
        task_id = request["task_id"]
        prompts = calls.prompts(request["task_description"], request["num_agents"])
        await self._bucket.create(task_id, json.dumps({**request, "status": "IN_PROGRESS"}).encode())
        asked = [{"task_id": task_id, "agent": agent, "messages": prompt} for agent, prompt in enumerate(prompts)]
        await asyncio.gather(
            *(
                self._js.publish(
                    CALL, json.dumps(call).encode(), headers={"Nats-Msg-Id": f"{task_id}.call.{call['agent']}"}
                )
                for call in asked
            )
        )
        await msg.ack()

    async def on_call(self, msg: Msg) -> None:
        call = json.loads(msg.data)
        call_id = f"{call['task_id']}.{call['agent']}"
        request = calls.body(self._model, call["messages"], MAX_TOKENS)
        text = await calls.complete(self._http, self._url, request, call_id)
        answer = {"task_id": call["task_id"], "agent": call["agent"], "text": text}
        await self._js.publish(ANSWER, json.dumps(answer).encode(), headers={"Nats-Msg-Id": f"{call_id}.answer"})
        await msg.ack()

    async def on_answer(self, msg: Msg) -> None:
        answer = json.loads(msg.data)
        task_id = answer["task_id"]
        gathered = self._gathered.setdefault(task_id, [])
        gathered.append((answer, msg))
        entry = await self._bucket.get(task_id) if len(gathered) == 1 else None
        if entry is not None:
            self._states[task_id] = (json.loads(entry.value or b""), entry.revision or 0)
        await self._maybe_end(task_id)

    async def _maybe_end(self, task_id: str) -> None:
        if task_id not in self._states:
            return  # still being read, for an earlier answer
        state, revision = self._states[task_id]
        gathered = self._gathered[task_id]
        if len(gathered) < state["num_agents"]:
            return
        del self._states[task_id], self._gathered[task_id]
        texts = {str(answer["agent"]): answer["text"] for answer, _ in gathered}
        result = {"task_id": task_id, "status": "COMPLETED", "winner": min(texts), "proposals": texts}
        value = json.dumps({**state, "status": "COMPLETED", "result": result}).encode()
        await self._bucket.update(task_id, value, last=revision)
        await self._js.publish(
            COMPLETED,
            json.dumps(result).encode(),
            headers={"Nats-Msg-Id": f"{task_id}.completed", "Task-Id": task_id},
        )
        await asyncio.gather(*(msg.ack() for _, msg in gathered))

    def in_its_own_task(self, handler: Any) -> Any:
        async def start(msg: Msg) -> None:
            task = asyncio.create_task(handler(msg))
            self._tasks.add(task)
            task.add_done_callback(self._done)

        return start

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"bare: {error!r}", file=sys.stderr, flush=True)


async def run(nats_url: str, vllm_url: str) -> None:
    """Prints a line when ready; runs until cancelled."""
    nc = await nats.connect(nats_url, name="bare")
    js = nc.jetstream()
    for subject in (REQUESTED, CALL, ANSWER):
        name = subject.replace(".", "_").upper()
        await js.add_stream(StreamConfig(name=name, subjects=[subject], retention=RetentionPolicy.WORK_QUEUE))
    await js.add_stream(StreamConfig(name="BARE_COMPLETED", subjects=[COMPLETED]))
    bare = Bare(js, await js.create_key_value(bucket=BUCKET), vllm_url, await calls.model_of(vllm_url))
    for subject, handler in ((REQUESTED, bare.on_request), (CALL, bare.on_call), (ANSWER, bare.on_answer)):
        await js.subscribe(
            subject,
            durable=subject.replace(".", "_"),
            manual_ack=True,
            config=ConsumerConfig(max_ack_pending=1024, ack_wait=60),
            cb=bare.in_its_own_task(handler),
            pending_msgs_limit=-1,
            pending_bytes_limit=-1,
        )
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
