"""Runs `fleet bench latency`: one deliberation after the other, and what the fleet adds to the model's time.

Overhead: from the client's publish to the terminal event, less the model's critical path, which is from the first call
that comes in at the model server to the end of the last one. The stages are told by timestamps that are there anyway:
of the client, of the messages in their streams, and of the model server's record of its calls.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import pairwise
from typing import Any, Final

from nats.js import JetStreamContext

from fleet import subjects
from fleet.bench import report
from fleet.bench.report import Figure, Panel, Report, Table
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import Run, TimedDeliberation, drive, quantile
from fleet.bench.speed.rig import Rig, settled
from fleet.jetstream.history import events
from fleet.messages import DeliberationAccepted, decode
from fleet.times import from_rfc3339

MODELS_MS: Final = (0, 100)
AGENTS = 3
WARM_UP, BLOCK = 20, 25
STAGES: Final = (
    "publish → dispatched",
    "dispatched → at the model",
    "model",
    "model → response stored",
    "response stored → decided",
    "decided → delivered",
)
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


async def measure(rig: Rig, deliberations: int, note: report.Note) -> Report:
    """`deliberations` of each system at each pace of the model, in turns of some."""
    compared = (await systems.fleet(rig, AGENTS), await systems.bare_of(rig, AGENTS), await systems.direct(rig, AGENTS))
    figures: dict[str, Figure] = {}
    rows, stages, processes, series = [], [], [], {}
    for model_ms in MODELS_MS:
        await rig.configure_model(latency_ms=model_ms, tokens_per_second=0)
        for system in compared:
            await drive(system, WARM_UP, 2)
        runs: dict[str, list[Run]] = defaultdict(list)
        for turn in range(0, deliberations, BLOCK):
            for system in compared:
                await settled(0.1)
                runs[system.name].append(await drive(system, min(BLOCK, deliberations - turn), 1))
            note(f"model {model_ms} ms: {min(turn + BLOCK, deliberations)} of {deliberations}")
        paths = critical_paths(await rig.model_calls(len(compared) * AGENTS * (deliberations + WARM_UP)))
        over = {name: [overhead_ms(one, paths) for run in found for one in run.asked] for name, found in runs.items()}
        for name, values in over.items():
            rows.append(
                [f"{name}, {model_ms} ms", *(quantile(values, share) for share in SHARES.values()), min(values)]
            )
            series[f"{name}, {model_ms} ms"] = distribution(values)
        suffix = "" if model_ms == MODELS_MS[-1] else f"_model_{model_ms}_ms"
        for name, share in SHARES.items():
            figures[f"overhead_{name}_ms{suffix}"] = Figure(
                quantile(over["fleet"], share),
                quantile(over["bare"], share),
                of=f"overhead at a {model_ms} ms model, beside bare",
                more={"direct": round(quantile(over["direct"], share), 3)},
            )
        asked = [one for run in runs["fleet"] for one in run.asked]
        spent = await stages_ms(rig.nc.jetstream(), asked, paths)
        for index, stage in enumerate(STAGES):
            values = [one[index] for one in spent]
            stages.append([f"{stage}, {model_ms} ms", *(quantile(values, share) for share in SHARES.values())])
        processes += load.processes_rows(f"{model_ms} ms", runs["fleet"])
    await compared[-1].close()
    return Report(
        "latency",
        figures,
        {"agents": AGENTS, "deliberations": deliberations, "in_flight": 1},
        report.machine(),
        tables=(
            Table("overheads", "Overhead, ms", ("system", *SHARES, "least"), rows),
            Table("stages", "Stages of the fleet's deliberations, ms", ("stage", *SHARES), stages),
            load.processes_table(processes),
        ),
        panels=(Panel("Overhead, one at a time", "overhead (ms)", "share of deliberations", series),),
    )


def critical_paths(calls: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Task id -> when its first call came in at the model, and when its last one ended. Seconds since the epoch."""
    found: dict[str, tuple[float, float]] = {}
    for call in calls:
        task_id = call["request_id"].partition(".")[0]
        began, ended = found.get(task_id, (call["started"], call["ended"]))
        found[task_id] = min(began, call["started"]), max(ended, call["ended"])
    return found


def overhead_ms(asked: TimedDeliberation, paths: Mapping[str, tuple[float, float]]) -> float:
    """End to end, less the model's critical path."""
    began, ended = paths[asked.task_id]
    return 1000 * (asked.seconds - (ended - began))


async def stages_ms(
    js: JetStreamContext, asked: Sequence[TimedDeliberation], paths: Mapping[str, tuple[float, float]]
) -> list[list[float]]:
    """How long each deliberation spent in each of `STAGES`."""
    dispatched = await dispatched_at(js)
    responded = await stored_at(js, subjects.AGENT_RESPONSES, subjects.AGENT_COMPLETED)
    ended = await stored_at(js, subjects.DELIBERATIONS, subjects.COMPLETED)
    found = []
    for one in asked:
        at = (
            one.began,
            dispatched[one.task_id],
            *paths[one.task_id],
            responded[one.task_id],
            ended[one.task_id],
            one.ended,
        )
        found.append([1000 * (later - earlier) for earlier, later in pairwise(at)])
    return found


async def dispatched_at(js: JetStreamContext) -> dict[str, float]:
    """Task id -> when a dispatcher took its request up, in seconds since the epoch: half way through a millisecond, for
    that is as much as the event says.
    """
    found = {}
    async with aclosing(events(js, (subjects.ACCEPTED,), None)) as stored:
        async for msg in stored:
            accepted = decode(msg.data, DeliberationAccepted)
            found[accepted.task_id] = from_rfc3339(accepted.accepted_at) / 1000 + 0.0005
    return found


async def stored_at(js: JetStreamContext, stream: str, subject: str) -> dict[str, float]:
    """Task id -> when the last such message was stored, in seconds since the epoch."""
    found = {}
    async with aclosing(events(js, (subject,), None, headers_only=True, stream=stream)) as stored:
        async for msg in stored:
            found[(msg.headers or {})["Task-Id"]] = msg.metadata.timestamp.timestamp()
    return found


def distribution(values: Sequence[float]) -> list[tuple[float, float]]:
    """(value, share of values up to it), at most some hundred points."""
    ordered = sorted(values)
    step = max(1, len(ordered) // 200)
    return [(value, (index + 1) / len(ordered)) for index, value in list(enumerate(ordered))[::step]]
