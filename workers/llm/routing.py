"""The order in which the endpoints of a deliberation are tried: its own first, so that its prefix cache is used.

Rendezvous hashing: every worker puts the endpoints of a task into the same order, with no state to share, and where
one goes away only its own tasks move. Bounded load: who has far more open calls than the mean is passed over.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from workers.llm.endpoint import Endpoint

SHARE_OF_MEAN = 1.25
SPARE = 4.0
"""So many open calls above that share are no reason to leave a cache."""


@lru_cache(maxsize=4096)
def _weight(task_id: str, name: str) -> bytes:
    return blake2b(f"{task_id}\0{name}".encode(), digest_size=8).digest()


def in_order(task_id: str, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The task's own endpoint first."""
    return sorted(endpoints, key=lambda endpoint: _weight(task_id, endpoint.name), reverse=True)


def pick(task_id: str, endpoints: Sequence[Endpoint], turn: int) -> Endpoint:
    """The first in the task's order that is not overloaded; without a task, the least loaded (ties rotate)."""
    if len(endpoints) == 1:
        return endpoints[0]
    if task_id:
        most = SHARE_OF_MEAN * (1 + sum(each.open_calls for each in endpoints)) / len(endpoints) + SPARE
        for endpoint in in_order(task_id, endpoints):
            if endpoint.open_calls + 1 <= most:
                return endpoint
    least = min(endpoint.open_calls for endpoint in endpoints)
    tied = [endpoint for endpoint in endpoints if endpoint.open_calls == least]
    return tied[turn % len(tied)]
