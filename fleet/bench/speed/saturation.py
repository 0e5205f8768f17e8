"""Runs `fleet bench saturate`: does the fleet keep a model server busy that runs a limited number of calls at once?

Three calls for each that the server runs are wanted at any time: by the fleet's deliberations, and by a client of the
model itself (`direct`). Tokens per second, by the server's own counter, over a window that begins once the server has
answered as many calls as are wanted: whatever is measured then is steady.
"""

import asyncio
import itertools
import json
import os
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from time import monotonic, process_time
from typing import Any, Final

from fleet.bench import report
from fleet.bench.report import Figure, Panel, Report, Table, ratio_of_means
from fleet.bench.speed import calls, systems
from fleet.bench.speed.processes import taken
from fleet.bench.speed.rig import Rig
from fleet.errors import FleetError
from fleet.local.supervisor import Child, first_line

AGENTS = 3
MAX_TOKENS = 128
LATENCY_MS, TOKENS_PER_SECOND = 50, 40
CONFIG: Final = f"[roles.DEV]\nmax_tokens = {MAX_TOKENS}\n"
RAMPED_WITHIN_S, IDLE_WITHIN_S = 300.0, 60.0
POLL_S = 0.25
BENCH, ENDLESS = "vllm_bench", 100_000
"""vLLM's own client, and more calls than a window sees the end of."""
_TOKENS, _FINISHED = "vllm:generation_tokens_total", "vllm:request_success_total"
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"

Load = Callable[[], AbstractAsyncContextManager[None]]
"""Keeps the server busy inside."""
Clock = Callable[[], Mapping[str, float]]
"""Processor seconds that it has taken so far, by kind of process."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the server said of one. `running`, `waiting`: calls, on average. `tokens_each`: of a call, of all that ended
    from the load's beginning to its end; None where it was broken off. `cpu_us`: processor time that the load took per
    token, in microseconds, by kind of process.
    """

    tokens_per_second: float
    running: float
    waiting: float
    tokens_each: float | None = None
    cpu_us: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """A model server's windows, by what kept it busy; as many of each."""

    title: str
    windows: Mapping[str, Sequence[Window]]

    def rates(self, system: str) -> list[float]:
        """Tokens per second, in the order of the turns."""
        return [window.tokens_per_second for window in self.windows[system]]

    def figure(self) -> Figure:
        """The fleet beside `direct`; `vllm_bench` in tokens per second, where there is one."""
        return Figure(
            *ratio_of_means(self.rates("fleet"), self.rates("direct")),
            of=f"tokens/s, {self.title}, beside direct",
            more={BENCH: round(fmean(self.rates(BENCH)), 1)} if BENCH in self.windows else {},
        )

    def rows(self) -> list[list[object]]:
        """One for each system."""
        return [
            [
                f"{name}, {self.title}",
                fmean(self.rates(name)),
                fmean(window.running for window in windows),
                fmean(window.waiting for window in windows),
                fmean(ended) if (ended := [one.tokens_each for one in windows if one.tokens_each]) else None,
            ]
            for name, windows in self.windows.items()
        ]

    def cpu_rows(self) -> list[list[object]]:
        """One for each kind of process, of both sides."""
        found: dict[str, list[float]] = defaultdict(list)
        for kind, cpu_us in (
            each for windows in self.windows.values() for one in windows for each in one.cpu_us.items()
        ):
            found[f"{kind}, {self.title}"].append(cpu_us)
        return [[kind, fmean(each)] for kind, each in found.items()]


def pace(at_once: int) -> list[str]:
    """The simulated server's options."""
    return [
        *("--max-num-seqs", str(at_once), "--latency-ms", str(LATENCY_MS)),
        *("--tokens-per-second", str(TOKENS_PER_SECOND), "--answer-tokens", str(MAX_TOKENS)),
    ]


async def measure(
    rig: Rig,
    title: str,
    at_once: int,
    turns: int,
    window_s: float,
    note: report.Note,
    vllm: str | None = None,
) -> Server:
    """`turns` windows of each system; the server runs `at_once` calls. `vllm`: the program, for its `bench serve`.

    Raises `FleetError` for a server in use.
    """
    wanted = AGENTS * at_once
    fleet = await systems.fleet(rig, AGENTS)
    windows: dict[str, list[Window]] = defaultdict(list)
    async with calls.session() as http:
        direct = await systems.direct(rig, 1, MAX_TOKENS, http)
        loads: dict[str, Load] = {
            "fleet": lambda: kept_up(fleet.ask, at_once, systems.unique("bench-fleet")),
            "direct": lambda: kept_up(direct.ask, wanted, systems.unique("bench-direct")),
        }
        clocks: dict[str, Clock] = defaultdict(
            lambda: dict,  # what others take is not known
            fleet=lambda: taken(rig.fleet_pids).cpu_s,
            direct=lambda: {"direct": process_time()},
        )
        if vllm:
            loads[BENCH] = await vllm_bench(vllm, rig, direct.requests[0], wanted)
        for turn in range(turns):
            for name, load in loads.items():
                before = await idle(rig)
                async with load():
                    await ramped(rig, wanted)
                    seen = await observed(rig, window_s, clocks[name])
                after = await idle(rig)
                tokens_each = (after[_TOKENS] - before[_TOKENS]) / (after[_FINISHED] - before[_FINISHED])
                windows[name].append(replace(seen, tokens_each=None if name == BENCH else tokens_each))
                note(f"{title}, turn {turn + 1} of {turns}: {name} {seen.tokens_per_second:,.0f} tokens/s")
    return Server(title, windows)


def result(servers: Mapping[str, Server], at_once: int, turns: int, window_s: float) -> Report:
    """Of all servers, by the names of their figures."""
    return Report(
        "saturate",
        {name: server.figure() for name, server in servers.items()},
        {
            "agents": AGENTS,
            "at_once": at_once,
            "calls_wanted": AGENTS * at_once,
            "max_tokens": MAX_TOKENS,
            "turns": turns,
            "window_s": window_s,
        },
        report.machine(),
        tables=(
            Table(
                "servers",
                "The server's account",
                ("system", "tokens_per_second", "running", "waiting", "tokens_each"),
                [row for server in servers.values() for row in server.rows()],
            ),
            Table(
                "processes",
                "Processor time of each side, µs per token: a server on the same machine has to do without it",
                ("process", "cpu_us"),
                [row for server in servers.values() for row in server.cpu_rows()],
            ),
        ),
        panels=[
            Panel(
                f"Tokens/s, {server.title}",
                "turn",
                "tokens/s",
                {system: list(enumerate(server.rates(system), 1)) for system in server.windows},
            )
            for server in servers.values()
        ],
    )


@asynccontextmanager
async def kept_up(ask: Callable[[str], Awaitable[None]], at_once: int, prefix: str) -> AsyncIterator[None]:
    """`at_once` askings at any time inside; leaving waits for the last of them. Raises (in a group) what `ask` does."""
    numbers, stopped = itertools.count(), False

    async def client() -> None:
        while not stopped:
            await ask(f"{prefix}-{next(numbers)}")

    async with asyncio.TaskGroup() as clients:
        for _ in range(at_once):
            clients.create_task(client())
        try:
            yield
        finally:
            stopped = True


async def vllm_bench(vllm: str, rig: Rig, request: Mapping[str, Any], at_once: int) -> Load:
    """vLLM's own client, broken off in the end. It insists on prompts of its own, and sends the same as `direct`."""
    async with calls.session() as http, http.get(f"{rig.vllm_url}/v1/models") as response:
        card = (await response.json())["data"][0]
    body = {name: request[name] for name in ("messages", "max_tokens", "temperature")}
    command = [
        *(vllm, "bench", "serve", "--backend", "openai-chat", "--disable-tqdm"),
        *("--base-url", rig.vllm_url, "--endpoint", "/v1/chat/completions"),
        *("--model", card["id"], "--tokenizer", card.get("root") or card["id"]),
        *("--dataset-name", "random", "--random-input-len", "8", "--random-output-len", str(MAX_TOKENS)),
        *("--extra-body", json.dumps(body), "--max-concurrency", str(at_once), "--num-prompts", str(ENDLESS)),
    ]

    @asynccontextmanager
    async def load() -> AsyncIterator[None]:
        child = Child(
            "vllm-bench",
            lambda: command,
            ready=_asking,
            environ=lambda: {**os.environ, "PYTHONUNBUFFERED": "1"},
            log_file=rig.bed.logs / "vllm-bench.log",
            on_line=lambda line: None,
        )
        await child.start()
        try:
            yield
        finally:
            await child.stop(0)

    return load


async def _asking(process: Process) -> str:
    """`vllm bench serve` is ready once it says that it begins."""
    while not (line := await first_line(process)).startswith("Starting main benchmark run"):
        pass
    return line


async def ramped(rig: Rig, finished: int) -> None:
    """Returns once the server has finished so many calls from now on. Raises `FleetError` when that takes too long."""
    before = (await rig.model_metrics())[_FINISHED]
    await _until(rig, lambda now: now[_FINISHED] - before >= finished, RAMPED_WITHIN_S, "answers too slowly")


async def idle(rig: Rig) -> Mapping[str, float]:
    """The server's metrics, once it has nothing to do. Raises `FleetError` when others keep it busy."""
    return await _until(rig, lambda now: now[_RUNNING] + now[_WAITING] == 0, IDLE_WITHIN_S, "is in use by others")


async def _until(
    rig: Rig, reached: Callable[[Mapping[str, float]], bool], within_s: float, otherwise: str
) -> Mapping[str, float]:
    deadline = monotonic() + within_s
    while not reached(now := await rig.model_metrics()):
        if monotonic() > deadline:
            raise FleetError(f"the model server {otherwise}")
        await asyncio.sleep(POLL_S)
    return now


async def observed(rig: Rig, window_s: float, clock: Clock) -> Window:
    """What the server does for so many seconds from now on."""
    before = await asyncio.to_thread(clock)
    samples = [(monotonic(), await rig.model_metrics())]
    while samples[-1][0] - samples[0][0] < window_s:
        await asyncio.sleep(POLL_S)
        samples.append((monotonic(), await rig.model_metrics()))
    after = await asyncio.to_thread(clock)
    return window(samples, {kind: cpu_s - before.get(kind, 0.0) for kind, cpu_s in after.items()})


def window(samples: Sequence[tuple[float, Mapping[str, float]]], cpu_s: Mapping[str, float]) -> Window:
    """Of the server's metrics, each with its time in seconds, and the processor seconds of the load meanwhile."""
    (began, first), (ended, last) = samples[0], samples[-1]
    tokens = last[_TOKENS] - first[_TOKENS]
    return Window(
        tokens / (ended - began),
        fmean(now[_RUNNING] for _, now in samples),
        fmean(now[_WAITING] for _, now in samples),
        cpu_us={kind: 1e6 * spent / tokens for kind, spent in cpu_s.items()} if tokens else {},
    )
