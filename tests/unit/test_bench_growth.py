"""`fleet bench scale` and `progress`: what is computed without a fleet."""

from collections.abc import Mapping

import pytest

from fleet.bench.speed import progress, stored
from fleet.bench.speed.copies import Kept, Pattern
from fleet.bench.speed.progress import EIGHT, NOBODY, ONE, TELLS_NOTHING, Window
from fleet.bench.speed.scale import PARTS
from fleet.cli.bench.speed import Part

TASK_ID = "bench-kept-0123456789"


def kept(**headers: str) -> Kept:
    return Kept("KV_deliberations", f"$KV.deliberations.{TASK_ID}", f'{{"task_id":"{TASK_ID}"}}'.encode(), headers)


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
