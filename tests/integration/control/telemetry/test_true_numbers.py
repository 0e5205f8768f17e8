"""The counters of all processes together say what the streams say, whatever is delivered again and whoever ends."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fleet import subjects
from fleet.config import RoleProfile, Settings, Workers
from fleet.control import collector, dispatcher
from fleet.jetstream import connection
from fleet.jetstream.history import events
from fleet.local.testbed import NoWorkers
from fleet.messages.headers import CALL_TOKEN
from fleet.observability.metrics import Metrics
from tests.support.fleets.control_plane import Fleet, Inbox
from tests.support.waiting import WITHIN_S, until, until_consumer
from tests.unit.control.telemetry.test_metering import total
from workers.calls.worker import AgentWorker
from workers.simulator.faults import Faults
from workers.simulator.server import Simulator, SimulatorConfig

ROLE = RoleProfile(persona="You are a developer.", max_tokens=2000)


class Lives:
    """Dispatchers and collectors in this process, and what each of them has counted until its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, asyncio.Task[None]] = {}
        self.counted: list[Metrics] = []

    async def begin(self, name: str) -> None:
        ready, metrics = asyncio.Event(), Metrics()
        self.counted.append(metrics)
        if name.startswith("dispatcher"):
            running = dispatcher.run(self._settings, NoWorkers(), on_ready=ready.set, metrics=metrics)
        else:
            running = collector.run(self._settings, on_ready=ready.set, metrics=metrics)
        self._running[name] = asyncio.create_task(running)
        async with asyncio.timeout(WITHIN_S):
            await ready.wait()

    async def end(self, *names: str) -> None:
        tasks = [self._running.pop(name) for name in names or [*self._running]]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def sum(self, name: str, **labels: str) -> float:
        return total([metrics.registry for metrics in self.counted], name, **labels)

    @property
    def series(self) -> set[bytes]:
        """Names with their labels, of all processes; a gauge is there from its first look."""
        return {
            line.rpartition(b" ")[0]
            for metrics in self.counted
            for line in metrics.text().splitlines()
            if not line.startswith((b"#", b"fleet_tokens_ahead"))
        }


@asynccontextmanager
async def counted_fleet(nats_url: str, simulated: SimulatorConfig) -> AsyncIterator[tuple[Fleet, Lives]]:
    async with Simulator(simulated) as simulator:
        settings = Settings(
            nats_url=nats_url,
            vllm_urls=(simulator.url,),
            health_host="127.0.0.1",
            health_port=0,  # a free one: without a port nobody could read gauges, and nothing looks for them
            roles={"DEV": ROLE},
            workers=Workers(ack_wait_s=3, calls_per_worker=32),
        )
        lives = Lives(settings)
        for name in ("dispatcher 1", "dispatcher 2", "collector 1", "collector 2"):
            await lives.begin(name)
        try:
            async with AgentWorker.open(settings, "worker-test"):
                nc = await connection.connect(settings, "client")
                inbox = Inbox()
                for subject in (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL):
                    await nc.subscribe(subject, cb=inbox.take)
                await nc.flush()
                try:
                    yield Fleet(nc, inbox), lives
                finally:
                    await nc.close()
        finally:
            await lives.end()


async def ended(fleet: Fleet, task_ids: list[str]) -> None:
    for task_id in task_ids:
        await until(lambda task_id=task_id: {*fleet.inbox.of(task_id)} & {*subjects.TERMINAL})


async def say_again(fleet: Fleet) -> None:
    """Every response that is stored, under other message ids."""
    js = fleet.nc.jetstream()
    kinds = (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED)
    stored = [msg async for msg in events(js, kinds, None, stream=subjects.AGENT_RESPONSES)]
    for number, msg in enumerate(stored):
        token = (msg.headers or {})[CALL_TOKEN]
        own = {"Nats-Msg-Id": f"again-{number}-{msg.metadata.sequence.stream}", CALL_TOKEN: token}
        await js.publish(msg.subject, msg.data, headers=own)


async def all_handled(fleet: Fleet) -> None:
    """Requests first, whose calls are answered, whose answers take deadlines back."""
    for names in (
        (subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER),
        (subjects.AGENT_RESPONSES, subjects.COLLECTOR),
        (subjects.DELIBERATION_CONTROL, subjects.CONTROLLER),
    ):
        await until_consumer(fleet.nc.jetstream(), *names, lambda info: not (info.num_pending or info.num_ack_pending))


async def test_sums_over_all_lives_are_what_the_streams_say(nats_url: str) -> None:
    """Collectors and dispatchers end and begin under load, every answer comes twice, the model fails now and then."""
    faults = Faults(http_503=0.1, empty=0.05, retry_after_s=0.05)
    async with counted_fleet(nats_url, SimulatorConfig(faults=faults, latency_ms=5)) as (fleet, lives):
        asked = [await fleet.request(task_id=f"t-{n}", num_agents=3, rounds=n % 2) for n in range(12)]
        await lives.end("collector 1")
        await say_again(fleet)
        await lives.begin("collector 1")
        await fleet.request(task_id="t-0", num_agents=3, rounds=0)  # once more
        await fleet.request(task_id="t-1", num_agents=5)  # a conflict
        await fleet.request(task_id="bad", num_agents=99)
        await fleet.nc.request(subjects.REQUESTED, b"{", timeout=WITHIN_S)
        await lives.end("dispatcher 2", "collector 2")
        asked += [await fleet.request(task_id=f"u-{n}", num_agents=2, rounds=0) for n in range(6)]
        await lives.begin("collector 2")
        await ended(fleet, asked)
        await say_again(fleet)
        await all_handled(fleet)

        js = fleet.nc.jetstream()
        kinds = (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL)
        stored = [(msg.subject, json.loads(msg.data)) async for msg in events(js, kinds, None)]
        letters = (await js.stream_info(subjects.DEAD_LETTERS)).state.messages

    ends = [body for subject, body in stored if subject in subjects.TERMINAL]
    assert len(ends) == len(asked) == lives.sum("fleet_deliberations_accepted_total")
    for status, count in Counter(body["status"] for body in ends).items():
        assert lives.sum("fleet_deliberations_total", status=status) == count
        assert lives.sum("fleet_deliberation_seconds_count", status=status) == count
    for code, count in Counter(body["code"] for subject, body in stored if subject == subjects.REJECTED).items():
        assert lives.sum("fleet_rejections_total", code=code) == count
    usage = Counter[str]()
    for body in ends:
        usage.update({name: value or 0 for name, value in body["usage"].items()})
    assert lives.sum("fleet_calls_total") == usage["calls"]
    assert lives.sum("fleet_calls_total", outcome="completed") == usage["calls"] - usage["failed_calls"]
    assert lives.sum("fleet_attempts_total", outcome="completed") == usage["calls"] - usage["failed_calls"]
    assert lives.sum("fleet_attempts_total", outcome="ServerError") > 0
    for kind in ("prompt", "completion", "cached"):
        assert lives.sum("fleet_tokens_total", kind=kind, model="simulated") == usage[f"{kind}_tokens"]
    assert lives.sum("fleet_dead_letters_total") == letters == 2


@pytest.mark.slow
async def test_series_do_not_grow_with_deliberations(nats_url: str) -> None:
    """Whatever clients name: labels are bounded by the settings."""
    async with counted_fleet(nats_url, SimulatorConfig()) as (fleet, lives):
        first = [await fleet.request(num_agents=2, rounds=1) for _ in range(20)]
        await ended(fleet, first)
        await all_handled(fleet)
        odd = {"correlation": {"who": "me"}, "options": {"models": ["made-up"]}}
        await ended(fleet, [await fleet.request(num_agents=1, **odd)])
        await all_handled(fleet)
        # A gauge of a model server is there once a worker's status was read.
        await until(lambda: any(b"fleet_breaker_open" in name for name in lives.series))
        before = lives.series
        more = [await fleet.request(task_id=f"task-{n}", num_agents=2, rounds=1) for n in range(40)]
        odd["options"] = {"models": ["made-up-too"]}
        more.append(await fleet.request(num_agents=1, **odd))
        await ended(fleet, more)
        await all_handled(fleet)
        assert lives.series == before
        assert lives.sum("fleet_deliberations_total") == 62


@pytest.mark.slow
async def test_gauges_tell_the_whole_fleet(nats_url: str) -> None:
    """What waits and what runs, from every process."""
    async with counted_fleet(nats_url, SimulatorConfig(faults=Faults(hang=1.0))) as (fleet, lives):
        asked = [await fleet.request(num_agents=2) for _ in range(3)]
        await until(lambda: lives.sum("fleet_deliberations_in_progress") >= 3 * len(lives.counted))
        await until(lambda: lives.sum("fleet_consumer_unacked", consumer="workers") >= 6)
        for task_id in asked:
            await fleet.ask(subjects.CANCEL, {"task_id": task_id})
        await until(lambda: not lives.sum("fleet_deliberations_in_progress"))
    assert lives.sum("fleet_deliberations_total", status="CANCELLED") == 3
