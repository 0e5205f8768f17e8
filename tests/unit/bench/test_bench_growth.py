"""`fleet bench scale` and `progress`: what is computed without a fleet."""

from collections.abc import Mapping

import pytest

from fleet.bench.growth import models, replicas, stored
from fleet.bench.growth.autoscaler import Autoscaler
from fleet.bench.growth.copies import Pattern, StoredMessage
from fleet.bench.growth.scale import PARTS
from fleet.bench.speed import progress
from fleet.bench.speed.load import Run, TimedDeliberation
from fleet.bench.speed.processes import ResourceUse
from fleet.bench.speed.progress import EIGHT, NOBODY, ONE, TELLS_NOTHING, Window
from fleet.cli.bench.scale import Part

TASK_ID = "bench-kept-0123456789"


def kept(**headers: str) -> StoredMessage:
    return StoredMessage(
        "KV_deliberations", f"$KV.deliberations.{TASK_ID}", f'{{"task_id":"{TASK_ID}"}}'.encode(), headers
    )


def test_copies_differ_from_the_pattern_in_their_id_alone() -> None:
    """In subject, body and headers; with the same length, so that what they take can be compared."""
    pattern = Pattern(TASK_ID, [kept(**{"Task-Id": TASK_ID, "ce-type": "deliberation.accepted"})])
    (first,), (second,) = pattern.copy(0), pattern.copy(123_456)
    assert first.subject == "$KV.deliberations.bench-kept-0123000000"
    assert second.body == b'{"task_id":"bench-kept-0123123456"}'
    assert second.headers == {"Task-Id": "bench-kept-0123123456", "ce-type": "deliberation.accepted"}
    assert len(first.body) == len(second.body) == len(pattern.messages[0].body)


def test_copies_are_not_taken_for_repetitions() -> None:
    """Message ids are left out, as is the revision that the pattern's state was written at."""
    pattern = Pattern(TASK_ID, [kept(**{"Nats-Msg-Id": "x", "Nats-Expected-Last-Subject-Sequence": "3"})])
    assert pattern.copy(1)[0].headers == {}


@pytest.mark.parametrize(("count", "name"), [(100_000, "100k"), (1_000, "1k"), (1_500, "1500"), (20, "20"), (0, "0")])
def test_figures_are_named_by_how_many_are_stored(count: int, name: str) -> None:
    assert stored.short(count) == name


def run(task_ms: float, cpu_s: float, memory: Mapping[str, int]) -> Run:
    """Ten deliberations, one after the other."""
    asked = [TimedDeliberation(str(number), 0.0, task_ms / 1000) for number in range(10)]
    cpu = {"actor": cpu_s / 2, "nats": cpu_s / 2}
    return Run("fleet", asked, task_ms / 100, cpu, ResourceUse(0.0, cpu, {"actor": 0, **memory}))


def test_what_is_stored_is_compared_with_the_fewest() -> None:
    """And what each takes is the difference between the most and the fewest."""
    found = stored.result(
        {
            1_000: ([run(20, 0.1, {})] * 2, [run(20, 0.1, {"nats": 1_000})] * 2, 50_000),
            10_000: ([run(20, 0.2, {})] * 2, [run(20, 0.2, {"nats": 1_000})] * 2, 0),
            100_000: ([run(20, 0.3, {})] * 2, [run(40, 0.3, {"nats": 991_000})] * 2, 2_030_000),
        }
    ).figures
    assert stored.counts(100_000) == [1_000, 10_000, 100_000]
    assert found["cost_10k_vs_1k_stored"].ratio == pytest.approx(2)
    assert found["cost_100k_vs_1k_stored"].ratio == pytest.approx(3)
    assert found["latency_100k_vs_1k_stored"].ratio == pytest.approx(2)
    assert found["memory_per_stored_bytes"].value == pytest.approx(10)
    assert found["disk_per_stored_bytes"].value == pytest.approx(20)


def test_crews_are_compared_with_the_usual_one() -> None:
    """Twice the throughput for the same processor time is a ratio of two, at a CPU ratio of one."""
    usual, others = [run(20, 0.1, {})] * 2, [run(10, 0.1, {})] * 2
    runs = {replicas.USUAL: usual, **dict.fromkeys(replicas.OTHERS.values(), others)}
    figures = replicas.result(runs, replicas.OTHERS).figures
    assert list(figures) == [
        "throughput_2_vs_1_workers",
        "throughput_4_vs_1_workers",
        "throughput_2_vs_1_dispatchers",
    ]
    assert {figure.ratio for figure in figures.values()} == {2.0}
    assert {figure.more["cpu_ratio"] for figure in figures.values()} == {1.0}


def test_memory_is_that_of_nats_and_the_rest() -> None:
    assert stored.kinds({"nats": 5, "actor": 3, "ray": 4}) == {"nats": 5, "fleet": 7}
    assert stored.kinds({"actor": 3}) == {"nats": 0, "fleet": 3}


def test_command_offers_every_part() -> None:
    assert tuple(Part) == PARTS


def test_progress_costs_what_it_takes_beyond_silence() -> None:
    """Ratios are of all processes together; the price of an event is what the fleet that tells takes more."""

    def window(cpu: Mapping[str, float], events: float = 0.0) -> list[Window]:
        return [Window(cpu, events, 700 * events, 0.0)] * 2

    figures = progress.figures(
        {
            TELLS_NOTHING: window({"actor": 15, "nats": 5}),
            NOBODY: window({"actor": 20, "nats": 10}, 320),
            ONE: window({"actor": 20, "nats": 10}, 320),
            EIGHT: window({"actor": 20, "nats": 25}, 320),
        }
    )
    assert figures["cpu_streaming_vs_silent"].ratio == pytest.approx(1.5)
    assert figures["cpu_1_watcher_vs_none"].ratio == pytest.approx(1)
    assert figures["cpu_8_watchers_vs_none"].ratio == pytest.approx(1.5)
    # 10 % of a core are 0.1 s in a second with 320 events.
    assert figures["cpu_streaming_vs_silent"].more["cpu_us_per_event"] == pytest.approx(312.5)


def test_an_autoscaler_grows_in_steps_and_shrinks_after_its_window() -> None:
    """Four at once, or as many again, every 15 s; fewer once it was too many in all of the window."""
    scaler, count, sizes = Autoscaler(most=16, window_s=60.0), 1, []
    for look, wanted in enumerate([20, 20, 20, 1, 9, 1, 1, 1, 1, 1, 0]):
        count = scaler.size(15.0 * look, count, wanted)
        sizes.append(count)
    assert sizes == [5, 10, 16, 16, 16, 16, 16, 9, 9, 1, 1]


def test_bursts_are_the_same_for_everybody() -> None:
    """And calls take what they take on average: the spread does not make them longer."""
    councils = models.bursts(1, 2.0)
    assert councils == models.bursts(1, 2.0) != models.bursts(2, 2.0)
    first = [took for council in councils for took in council.phases[0]]
    assert sum(first) / len(first) == pytest.approx(models.CALL_S["propose"], rel=0.05)
    assert {council.calls_from(0) % council.agents for council in councils} == {0}


def test_servers_that_are_enough_from_the_start_make_nobody_wait() -> None:
    """And cost what their calls take; one that is never joined by another makes all wait."""
    councils = [models.Council(float(at), 8, [[10.0] * 8, [5.0] * 8]) for at in range(0, 400, 40)]
    enough = models.Simulation(councils, lambda _: 1.0, 60.0).run()
    assert enough.waited_p95_s == 0.0
    assert enough.server_hours == pytest.approx(375.0 / 3600, abs=models.LOOK_EVERY_S / 3600)
    crowd = [models.Council(0.0, 8, [[10.0] * 8]) for _ in range(12)]
    alone = models.Simulation(crowd, lambda _: 1.0, 60.0).run()
    assert alone.waited_p95_s == 20.0
    grown = models.Simulation(crowd, lambda _: 3.0, 60.0).run()
    assert grown.waited_p95_s == 20.0, "they come too late for this crowd"


def test_what_is_coming_counts_phases_to_come_and_what_arrives() -> None:
    looks: list[models.Work] = []

    def noted(work: models.Work) -> float:
        looks.append(work)
        return 1.0

    models.Simulation([models.Council(1.0, 4, [[20.0] * 4, [5.0] * 4])], noted, 60.0).run()
    assert looks[:3] == [
        models.Work(0, 0, 0.0),
        models.Work(4, 8, 8 / models.ARRIVED_IN_S),
        models.Work(0, 0, 8 / models.ARRIVED_IN_S),
    ]
    assert models.coming(models.Work(0, 300, 0.0)) == models.coming(models.Work(0, 0, 300 / models.ARRIVALS_S))


def test_the_usual_way_is_given_as_many_servers() -> None:
    """The cheapest share of seats that is not cheaper than what it is held against."""
    dear = models.usual_at_the_price([1], 1.0, 3.0, 300.0)[0].server_hours
    cheap = models.usual_at_the_price([1], 1.0, 2.0, 300.0)[0].server_hours
    assert 2.0 <= cheap < 3.0 <= dear
    figures = models.measure(2, 0.5, lambda _: None).figures
    assert {name for name in figures if figures[name].value} == set(figures)
    assert figures["server_hours_vs_usual"].ratio == pytest.approx(1.0, abs=0.25)
