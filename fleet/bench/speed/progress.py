"""Runs `fleet bench progress`: what it costs to publish a model's text while it writes.

Two fleets side by side, one of which tells nearly nothing (once per call, at its end). As many calls as are
wanted are opened at once; when all of them write, the processor time of a window is taken, and they are cancelled.
Watchers are core subscriptions of this process, each with a connection of its own: their own processor time does not
count, that of NATS does.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import nats
from nats.aio.msg import Msg

from fleet import subjects
from fleet.bench import report
from fleet.bench.report import Figure, Report, Table, ratio_of_means
from fleet.bench.speed import systems
from fleet.bench.speed.processes import watched
from fleet.bench.speed.rig import Rig, side_by_side

TOKENS_PER_SECOND, ANSWER_TOKENS = 50, 500
"""Answers differ by up to 40 %: the shortest one takes 6 s, and no window may be longer."""
PACE: Final = ("--tokens-per-second", str(TOKENS_PER_SECOND), "--answer-tokens", str(ANSWER_TOKENS))
SILENT: Final = "[workers]\nprogress_interval_ms = 3600000\n"
WITHIN_S = 30.0
POLL_S = 0.05
RUNNING: Final = "vllm:num_requests_running"

NOBODY, ONE, EIGHT, TELLS_NOTHING = "no watcher", "1 watcher", "8 watchers", "tells nothing"
WATCHERS: Final = {TELLS_NOTHING: 0, NOBODY: 0, ONE: 1, EIGHT: 8}
"""What is compared: so many watchers each, of the fleet that tells nothing or of the other."""


@dataclass(frozen=True, slots=True)
class Window:
    """Of one. `cpu`: percent of one core, by kind of process; `events` and `bytes` of progress per second, as they are
    stored; `heard`: events per second that all watchers together got.
    """

    cpu: Mapping[str, float]
    events: float
    bytes: float
    heard: float

    @property
    def percent(self) -> float:
        return sum(self.cpu.values())


async def measure(directory: Path, calls: int, turns: int, window_s: float, note: report.Note) -> Report:
    """In each of the `turns` one window of each, with so many `calls` open. Raises TimeoutError."""
    windows: dict[str, list[Window]] = defaultdict(list)
    telling = Rig(directory / "telling", pace=PACE, bare=False)
    silent = Rig(directory / "silent", pace=PACE, config=SILENT, bare=False)
    async with side_by_side((telling, silent)):
        for turn in range(-1, turns):
            for name, watchers in WATCHERS.items():
                window = await _window(silent if name == TELLS_NOTHING else telling, calls, watchers, window_s)
                if turn >= 0:  # the first one is for warming up
                    windows[name].append(window)
            note(f"turn {turn + 1} of {turns}")
    return Report(
        "progress",
        figures(windows),
        {
            "calls": calls,
            "turns": turns,
            "window_s": window_s,
            "tokens_per_second": TOKENS_PER_SECOND,
            "answer_tokens": ANSWER_TOKENS,
        },
        report.machine(),
        tables=(
            Table(
                "streaming",
                f"{calls} calls that write; CPU in percent of one core",
                ("told", "cpu_percent", "events_per_second", "bytes_per_second", "heard_per_second"),
                [
                    [
                        name,
                        *(fmean(getattr(one, of) for one in found) for of in ("percent", "events", "bytes", "heard")),
                    ]
                    for name, found in windows.items()
                ],
            ),
            Table("processes", "Processes: CPU in percent of one core", ("process", *windows), _processes(windows)),
        ),
    )


def figures(windows: Mapping[str, Sequence[Window]]) -> dict[str, Figure]:
    """By the names of `WATCHERS`; as many windows of each, taken in turns."""
    cpu = {name: [window.percent for window in found] for name, found in windows.items()}
    events = fmean(window.events for window in windows[NOBODY])
    extra = fmean(cpu[NOBODY]) - fmean(cpu[TELLS_NOTHING])
    of = "CPU, percent of one core, NATS and all processes, while calls write"
    return {
        "cpu_streaming_vs_silent": Figure(
            *ratio_of_means(cpu[NOBODY], cpu[TELLS_NOTHING]),
            of=f"{of}: without a watcher, beside telling nothing",
            more={"cpu_us_per_event": round(1e4 * extra / events, report.DIGITS) if events else None},
        ),
        "cpu_1_watcher_vs_none": Figure(*ratio_of_means(cpu[ONE], cpu[NOBODY]), of=f"{of}: with 1 watcher"),
        "cpu_8_watchers_vs_none": Figure(*ratio_of_means(cpu[EIGHT], cpu[NOBODY]), of=f"{of}: with 8 watchers"),
    }


def _processes(windows: Mapping[str, Sequence[Window]]) -> list[list[Any]]:
    means = {
        name: {kind: fmean(window.cpu.get(kind, 0.0) for window in found) for kind in found[-1].cpu}
        for name, found in windows.items()
    }
    kinds = sorted(means[NOBODY], key=lambda kind: -means[NOBODY][kind])
    return [[kind, *(mean.get(kind, 0.0) for mean in means.values())] for kind in kinds]


async def _window(rig: Rig, calls: int, watchers: int, window_s: float) -> Window:
    js = rig.nc.jetstream(timeout=WITHIN_S)
    async with _watching(rig.nats.url, watchers) as heard, _writing(rig, calls):
        before, heard_before = (await js.stream_info(subjects.AGENT_PROGRESS_STREAM)).state, sum(heard)
        cpu, _ = await watched(rig.fleet_pids, window_s)
        after, heard_after = (await js.stream_info(subjects.AGENT_PROGRESS_STREAM)).state, sum(heard)
    events = (after.last_seq - before.last_seq) / window_s
    size = after.bytes / after.messages if after.messages else 0.0
    return Window(cpu, events, events * size, (heard_after - heard_before) / window_s)


@asynccontextmanager
async def _watching(url: str, watchers: int) -> AsyncIterator[list[int]]:
    """Yields how many events each has got so far."""
    heard = [0] * watchers
    async with AsyncExitStack() as stack:
        for watcher in range(watchers):

            async def hear(_: Msg, watcher: int = watcher) -> None:
                heard[watcher] += 1

            nc = await nats.connect(url, name=f"fleet-bench-watcher-{watcher}")
            stack.push_async_callback(nc.close)
            await nc.subscribe(subjects.AGENT_PROGRESS, cb=hear)
            await nc.flush()
        yield heard


@asynccontextmanager
async def _writing(rig: Rig, calls: int) -> AsyncIterator[None]:
    """All calls are open inside, of as many deliberations, which are cancelled then. Raises TimeoutError."""
    run, body = systems.unique("bench-progress"), systems.request(1)
    task_ids = [f"{run}-{number}" for number in range(calls)]
    js = rig.nc.jetstream(timeout=WITHIN_S)
    asked = [json.dumps({**body, "task_id": task_id}).encode() for task_id in task_ids]
    await asyncio.gather(*(js.publish(subjects.REQUESTED, each) for each in asked))
    await _until_running(rig, calls)
    try:
        yield
    finally:
        told = [json.dumps({"task_id": task_id}).encode() for task_id in task_ids]
        await asyncio.gather(*(rig.nc.request(subjects.CANCEL, each, timeout=WITHIN_S) for each in told))
        await _until_running(rig, 0)


async def _until_running(rig: Rig, calls: int) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(WITHIN_S):
        while (await rig.model_metrics()).get(RUNNING, 0.0) != calls:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(POLL_S)
