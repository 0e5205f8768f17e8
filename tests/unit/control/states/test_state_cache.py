from fleet.control.states.state_cache import StateCache
from fleet.control.states.store import Stored
from fleet.deliberation.events import CancelAsked, Requested
from fleet.deliberation.machine import decide
from fleet.requests.task import Task


def stored(task_id: str, size: int, revision: int = 1) -> Stored:
    return Stored(decide(None, Requested(task_id, Task(task_description="x"), 7, 0)).state, revision, size)


def test_states_are_kept_up_to_a_number_of_bytes() -> None:
    """Those that were put first make room."""
    cache = StateCache(limit_bytes=100)
    for task_id in ("a", "b", "c"):
        cache.put(stored(task_id, 40))
    assert (cache.get("a"), len(cache), cache.bytes) == (None, 2, 80)


def test_a_state_that_is_put_again_counts_once() -> None:
    """With the size that it has now, and it is the latest one."""
    cache = StateCache(limit_bytes=100)
    cache.put(stored("a", 40))
    cache.put(stored("b", 40))
    cache.put(stored("a", 60, revision=2))
    assert cache.bytes == 100
    cache.put(stored("c", 10))
    assert (cache.get("b"), cache.bytes) == (None, 70)


def test_a_state_beyond_the_limit_is_not_kept() -> None:
    """Nor does it take the place of others, but what was kept of its task is old."""
    cache = StateCache(limit_bytes=100)
    cache.put(stored("a", 40))
    cache.put(stored("b", 40))
    cache.put(stored("a", 101, revision=2))
    assert (cache.get("a"), len(cache), cache.bytes) == (None, 1, 40)


def test_a_state_that_has_ended_is_not_kept() -> None:
    """Nothing more is expected for it."""
    cache = StateCache()
    running = stored("a", 40)
    cache.put(running)
    cache.put(Stored(decide(running.state, CancelAsked("", 0)).state, 2, 50))
    assert (len(cache), cache.bytes) == (0, 0)
