"""Plays councils on simulated model servers, with the client of real workers: the core decides, no NATS, no Ray."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random

from msgspec import structs

from fleet.bench.player import play
from fleet.clock import now_ms
from fleet.config import Settings, load
from fleet.errors import AgentCallError
from fleet.limits.workers import Workers
from fleet.messages import AgentRequested, AgentResponse
from fleet.model_servers import EndpointConfig
from fleet.requests.task import Task
from workers.calls import responses
from workers.calls.reading.answers import AnswerReader, CheckedAnswer
from workers.llm.client import ModelClient
from workers.llm.requests import resolve
from workers.llm.servers.allowances import OwnLedger
from workers.simulator.chat import Call
from workers.simulator.server import Simulator, SimulatorConfig

AGENTS, ROUNDS = 4, 1
TIMEOUT_S = 600.0
_WORDS = 150
"""Of a task."""


class NoWatcher:
    """Nobody watches these calls."""

    def began(self, attempt: int, after: AgentCallError | None) -> None:
        pass

    def wrote(self, text: str, tokens: int, max_tokens: int) -> None:
        pass

    def ended(self, tokens: int, error: AgentCallError | None) -> None:
        pass


class Servers:
    """Simulated model servers and workers that share them. `async with` starts and ends them all.

    `by_load`: each call goes to the server with the fewest open calls, whatever deliberation it belongs to.
    """

    def __init__(
        self,
        count: int,
        workers: int,
        *,
        by_load: bool = False,
        seed: int = 0,
        model: SimulatorConfig | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        config = structs.replace(model or SimulatorConfig(), recorded_calls=1_000_000)
        self.servers = {f"gpu-{number}": Simulator(config) for number in range(count)}
        self.waits_ms: list[float] = []
        """Of each call: from its beginning in the worker until its answer was there."""
        self.failed: Counter[str] = Counter()
        self._workers = workers
        self._by_load = by_load
        self._max_concurrency = max_concurrency
        self._rng = Random(seed)
        self._seed = seed
        self._clients: list[ModelClient] = []
        self._settings: Settings = structs.replace(load({}), agent_type="vllm", workers=Workers(count=workers))

    async def __aenter__(self) -> "Servers":
        async with AsyncExitStack() as stack:
            for server in self.servers.values():
                await stack.enter_async_context(server)
            endpoints = {
                name: EndpointConfig(url=server.url, max_concurrency=self._max_concurrency)
                for name, server in self.servers.items()
            }
            self._settings = structs.replace(self._settings, endpoints=endpoints)
            ledger = OwnLedger()
            for number in range(self._workers):
                client = ModelClient(self._settings, rng=Random(self._seed))
                client.share_limits(ledger, f"worker-{number}")
                stack.push_async_callback(client.close)
                client.start()
                self._clients.append(client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def play(self, number: int) -> None:
        """One deliberation."""
        task = Task(
            task_description=" ".join(f"{self._rng.getrandbits(32):x}" for _ in range(_WORDS)),
            num_agents=AGENTS,
            rounds=ROUNDS,
            timeout_seconds=TIMEOUT_S,
            early_stop=False,
        )
        await play(task, self._ask, task_id=f"routing-{self._seed}-{number}", clock=now_ms)

    async def play_all(self, councils: int, at_once: int) -> None:
        """So many deliberations, so many of them at any time."""
        numbers = iter(range(councils))

        async def client() -> None:
            for number in numbers:
                await self.play(number)

        async with asyncio.TaskGroup() as clients:
            for _ in range(at_once):
                clients.create_task(client())

    async def _ask(self, call: AgentRequested) -> AgentResponse:
        """Whichever worker takes the call."""
        client = self._rng.choice(self._clients)
        reader = AnswerReader(call)

        async def check(content: str) -> CheckedAnswer:
            return reader(content)

        request = resolve(self._settings, call)
        if self._by_load:
            request = structs.replace(request, task_id="")
        began = time.monotonic()
        try:
            answer = await client.complete(request, request_id=call.call_id, check=check, watcher=NoWatcher())
        except AgentCallError as error:
            self.failed[error.error_type] += 1
            return responses.failed(call, error, 1, 0)
        self.waits_ms.append(1000 * (time.monotonic() - began))
        return responses.completed(call, request, answer, {}, 0)

    # --- what the servers have seen ---------------------------------------------------------------------------------

    def calls(self) -> Mapping[str, Sequence[Call]]:
        """That were answered, by server."""
        return {
            name: [call for call in server.calls() if call.outcome == "completed"]
            for name, server in self.servers.items()
        }

    def cached_share(self) -> float:
        """Of all tokens of all prompts."""
        calls = [call for each in self.calls().values() for call in each]
        return sum(call.cached_tokens for call in calls) / max(1, sum(call.prompt_tokens for call in calls))

    def busiest(self) -> float:
        """The calls of the server that has most ÷ the mean."""
        counts = [len(calls) for calls in self.calls().values()]
        return max(counts) * len(counts) / max(1, sum(counts))

    def places(self) -> dict[str, set[str]]:
        """Each deliberation's servers."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, calls in self.calls().items():
            for call in calls:
                found[task_of(call)].add(name)
        return found


def task_of(call: Call) -> str:
    """The deliberation that a call belongs to."""
    return call.request_id.partition(".")[0]
