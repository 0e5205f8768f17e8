"""Plays the control plane for one worker, on a real nats-server."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import nats
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from fleet import subjects
from fleet.config import RoleProfile, Settings, Workers
from fleet.jetstream.streams import BUCKETS
from fleet.messages import AgentRequested, ChatMessage, encode
from fleet.times import rfc3339
from tests.support.waiting import WITHIN_S, until_emptied
from workers.calls.worker import AgentWorker
from workers.simulator.server import SimulatorConfig

SLOW = SimulatorConfig(tokens_per_second=20, answer_tokens=10_000)
ACK_WAIT_S = 2.0


def request(**more: Any) -> AgentRequested:
    fields: dict[str, Any] = {
        "task_id": "t",
        "agent_id": "agent-dev-001",
        "role": "DEV",
        "phase": "propose",
        "round": 0,
        "messages": (ChatMessage(role="user", content="Design a rate limiter"),),
        "seed": 1,
        "num_agents": 3,
        "deadline_at": rfc3339(round(time.time() * 1000) + 60_000),
        "correlation": {"story": "S-17"},
    }
    return AgentRequested(**{**fields, **more})


class ModelServer(Protocol):
    """The simulated one, or a real one."""

    @property
    def url(self) -> str: ...


class Plane:
    """The control plane as far as a worker sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Any] = []
        self._news = asyncio.Condition()

    async def open(self) -> None:
        async def quiet(_: Exception) -> None: ...

        self.nc = await nats.connect(self.url, error_cb=quiet, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        self.js = self.nc.jetstream()
        for name, subject, storage, retention in (
            (subjects.AGENT_REQUESTS, subjects.AGENT_REQUESTED, StorageType.FILE, RetentionPolicy.WORK_QUEUE),
            (subjects.AGENT_RESPONSES, "agent.response.*", StorageType.FILE, RetentionPolicy.LIMITS),
            (subjects.DEAD_LETTERS, "deadletter.>", StorageType.FILE, RetentionPolicy.LIMITS),
        ):
            kept = [subjects.AGENT_COMPLETED, subjects.AGENT_FAILED] if "response" in subject else [subject]
            await self.js.add_stream(StreamConfig(name=name, subjects=kept, storage=storage, retention=retention))
        await self.add_consumer()
        self.bucket = await self.js.create_key_value(bucket=subjects.BUCKET)
        await self.js.create_key_value(bucket=subjects.WORKERS_BUCKET, storage=StorageType.MEMORY, direct=True)
        for spec in BUCKETS:
            if spec.kind == "objects":
                own = {"allow_msg_ttl": True, "allow_direct": True, "allow_rollup_hdrs": not spec.append_only}
                await self.js.add_stream(StreamConfig(name=spec.stream, subjects=list(spec.subjects), **own))
        for watched in ("agent.response.>", "deadletter.>"):
            await self.nc.subscribe(watched, cb=self._take)
        await self.nc.flush()

    async def add_consumer(self) -> None:
        await self.js.add_consumer(
            subjects.AGENT_REQUESTS,
            ConsumerConfig(
                durable_name=subjects.WORKERS,
                filter_subject=subjects.AGENT_REQUESTED,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_S,
                max_deliver=10,
                max_ack_pending=10_000,
            ),
        )

    async def _take(self, msg: Any) -> None:
        async with self._news:
            self.seen.append(msg)
            self._news.notify_all()

    def of(self, subject: str) -> list[Any]:
        return [msg for msg in self.seen if msg.subject == subject]

    async def next(self, subject: str, count: int = 1, within_s: float = 30) -> Any:
        """The `count`-th message of `subject`."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(lambda: len(self.of(subject)) >= count)
        return self.of(subject)[count - 1]

    async def submit(self, call: AgentRequested, **headers: str) -> None:
        await self.js.publish(subjects.AGENT_REQUESTED, encode(call), headers=headers or None)

    async def put_state(self, status: str = "IN_PROGRESS", calls: str = "open", **more: Any) -> None:
        state = {"status": status, "phase": "propose", "round": 0, "calls": {"agent-dev-001": calls}, **more}
        await self.bucket.put("t", json.dumps(state).encode())

    async def settled(self) -> None:
        """Waits until every request has been acknowledged: a work queue then is empty."""
        await until_emptied(self.js, subjects.AGENT_REQUESTS)


def settings(plane: Plane, server: ModelServer, **limits: Any) -> Settings:
    return Settings(
        nats_url=plane.url,
        vllm_urls=(server.url,),
        roles={"DEV": RoleProfile(persona="You are a developer.", max_tokens=4000)},
        workers=Workers(**{"ack_wait_s": ACK_WAIT_S, "calls_per_worker": 16, **limits}),
    )


@asynccontextmanager
async def working(plane: Plane, server: ModelServer, **limits: Any) -> AsyncIterator[AgentWorker]:
    async with AgentWorker.open(settings(plane, server, **limits), "worker-test") as worker:
        yield worker


@asynccontextmanager
async def worker_process(
    plane: Plane,
    server: ModelServer,
    tmp_path: Path,
    *,
    max_tokens: int = 4000,
    endpoint: str = "",
    open_files: tuple[int, int] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that can be stopped as a whole. `endpoint`: more settings of the model server, as TOML. `open_files`:
    the soft and the hard limit of its process.
    """
    config = tmp_path / "fleet.toml"
    config.write_text(
        f"[workers]\nack_wait_s = {ACK_WAIT_S}\n[roles.DEV]\nmax_tokens = {max_tokens}\n"
        f'[endpoints.server]\nurl = "{server.url}"\n{endpoint}\n'
    )
    environ = {"NATS_URL": plane.url, "FLEET_CONFIG": str(config)}
    limited = () if open_files is None else ("prlimit", "--nofile={}:{}".format(*open_files))
    process = await asyncio.create_subprocess_exec(
        *(*limited, sys.executable, "-m", "fleet.chaos.worker"),
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            await process.stdout.readline()
        yield process
    finally:
        with suppress(ProcessLookupError):  # the test has killed it
            process.send_signal(signal.SIGCONT)
            process.terminate()
        async with asyncio.timeout(WITHIN_S):
            await process.wait()
