"""Names the actors of a fleet, and tells them from those of other fleets on the same Ray."""

import signal
from collections.abc import Iterable

NAMESPACE = "deliberation-fleet"
PREFIX = "fleet-worker"
LEAVE = signal.SIGUSR2
"""Tells the process of an actor that its node is about to end."""
LOCAL_RAY = "FLEET_RAY_OF"
"""In the environment of every process of a local Ray: the fleet's data directory."""


class ActorNames:
    """`fleet-worker-<fleet>-<number>`; `own`: those that may exist, the first ones first."""

    def __init__(self, fleet_name: str, count: int) -> None:
        self._prefix = f"{PREFIX}-{fleet_name}-"
        self.own = [f"{self._prefix}{number}" for number in range(count)]

    def first(self, count: int) -> frozenset[str]:
        """The first of `own`."""
        return frozenset(self.own[:count])

    def of_this_fleet(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that belong to this fleet, however many it should have."""
        # Another fleet's name may begin with this one's.
        return [name for name in names if name.startswith(self._prefix) and name[len(self._prefix) :].isdecimal()]
