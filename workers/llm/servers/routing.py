"""Routes the calls of a deliberation to one endpoint, so that its prefix cache is used.

Rendezvous hashing: every worker puts the endpoints of a task into the same order, with no state to share, and where
one goes away only its own tasks move. A worker that sees a task for the first time takes the less loaded of the first
two, and stays there. Bounded load: an endpoint with far more open calls than the mean is passed over.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from workers.llm.servers.endpoint import Endpoint

SHARE_OF_MEAN = 1.25
SPARE = 4.0
"""So many open calls above that share are no reason to leave a cache."""
SPARE_AT_FIRST, SPARE_AT_FIRST_OF_MANY = -2.0, 1.5
"""Nor to pass an endpoint over where a task begins. Several workers must begin at the same one, unasked."""
CLEARLY_LESS = 3
"""So many open calls fewer are a reason to begin at the second endpoint."""
REMEMBERED_TASKS = 4096


@lru_cache(maxsize=4 * REMEMBERED_TASKS)
def _weight(task_id: str, name: str) -> bytes:
    return blake2b(f"{task_id}\0{name}".encode(), digest_size=8).digest()


def in_order(task_id: str, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The task's own endpoint first."""
    return sorted(endpoints, key=lambda endpoint: _weight(task_id, endpoint.name), reverse=True)


class Routing:
    """Of one worker: remembers where it began with each task."""

    def __init__(self, workers: int = 1) -> None:
        self._spare_at_first = SPARE_AT_FIRST if workers == 1 else SPARE_AT_FIRST_OF_MANY
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._turn = 0

    def begin(self, task_id: str, endpoint: Endpoint) -> None:
        """A call goes there: the first one of a task decides for the others. Ties of calls without a task rotate."""
        self._turn += 1
        if task_id and task_id not in self._homes:
            self._homes[task_id] = endpoint.name
            if len(self._homes) > REMEMBERED_TASKS:
                self._homes.popitem(last=False)

    def forget(self, endpoint: str) -> None:
        """It is lost: its tasks begin anew elsewhere, and stay there."""
        for task_id in [task_id for task_id, home in self._homes.items() if home == endpoint]:
            del self._homes[task_id]

    def pick(self, task_id: str, endpoints: Sequence[Endpoint]) -> Endpoint:
        """The first in the task's order that is not overloaded; without a task, the least loaded."""
        if len(endpoints) == 1:
            return endpoints[0]
        if task_id:
            home = self._homes.get(task_id)
            mean = (1 + sum(each.open_calls for each in endpoints)) / len(endpoints)
            # A task that has no place yet leaves no cache.
            most = max(1.0, SHARE_OF_MEAN * mean + (SPARE if home else self._spare_at_first))
            for endpoint in self._order(task_id, home, endpoints):
                if endpoint.open_calls + 1 <= most:
                    return endpoint
        least = min(endpoint.open_calls for endpoint in endpoints)
        tied = [endpoint for endpoint in endpoints if endpoint.open_calls == least]
        return tied[self._turn % len(tied)]

    def _order(self, task_id: str, home: str | None, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        order = in_order(task_id, endpoints)
        if home is None:
            first, second = order[:2]
            return order if second.open_calls + CLEARLY_LESS > first.open_calls else [second, first, *order[2:]]
        return sorted(order, key=lambda endpoint: endpoint.name != home)
