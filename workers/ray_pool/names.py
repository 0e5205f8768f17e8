"""Names the actors of a fleet, and tells them from those of other fleets on the same Ray."""

from collections.abc import Iterable

NAMESPACE = "deliberation-fleet"
PREFIX = "fleet-worker"


class ActorNames:
    """`fleet-worker-<fleet>-<number>`; `own`: those that should exist."""

    def __init__(self, fleet_name: str, count: int) -> None:
        self._prefix = f"{PREFIX}-{fleet_name}-"
        self.own = [f"{self._prefix}{number}" for number in range(count)]

    def of_this_fleet(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that belong to this fleet, however many it should have."""
        # Another fleet's name may begin with this one's.
        return [name for name in names if name.startswith(self._prefix) and name[len(self._prefix) :].isdecimal()]
