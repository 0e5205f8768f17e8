"""Defines the settings of workers: how many actors there are, and what each call may take."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
MOST_ACTORS = 10_000
Actors = Annotated[int, Meta(ge=1, le=MOST_ACTORS)]


class Workers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The actor pool and what each call may take. With `min` below `max` its size follows what is coming."""

    count: Actors = 1
    """Actors, where neither `min` nor `max` is set; else what stands in for the one that is not."""
    min: Annotated[int, Meta(ge=0, le=MOST_ACTORS)] | None = None
    """Actors that there are at least. 0: without work there is none, and the first request waits for one to start."""
    max: Actors | None = None
    """Actors that there are at most."""
    shrink_after_s: Positive = 60.0
    """How long fewer actors must have been enough before some of them end."""
    calls_per_worker: Count = 512
    num_cpus: Annotated[float, Meta(ge=0)] | None = None
    """Ray CPUs that one actor reserves; actors wait on the network, they do not compute. Absent: 1 with `min` below
    `max`, since Ray's autoscaler does not see actors that ask for nothing; else 0."""
    ack_wait_s: Annotated[float, Meta(ge=1)] = 9.0
    """How long a dead worker's calls wait before another takes them."""
    max_attempts: Count = 4
    """Tries of one call that the model may have worked on; one repair of an invalid answer comes on top. What has not
    begun (nobody listens, the server is full or still loading) is tried again until the deadline."""
    connect_timeout_s: Positive = 5.0
    stall_timeout_s: Positive = 60.0
    """How long a model may stay silent between two tokens."""
    first_token_timeout_s: Positive | None = None
    """How long a model may take to its first token; twice as long after each time that this was too short. Absent:
    three times `stall_timeout_s`."""
    breaker_failures: Count = 5
    """Failed attempts, of the last 20 at one endpoint, that open its breaker: it gets no calls then."""
    breaker_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The least share of those attempts that must have failed besides."""
    breaker_cool_down_s: Positive = 1.0
    """How long an open breaker waits before one call probes the endpoint; twice as long after each failed probe."""
    breaker_longest_cool_down_s: Positive = 10.0
    hedge_after: Annotated[float, Meta(gt=1)] | None = None
    """A call that has run this many times the median of its phase's last calls is made a second time, at another
    endpoint, and the first valid answer wins. Absent: never."""
    progress_interval_ms: Count = 200
    """Least time between two progress events of one call; with many calls at once it is more."""

    @property
    def lowest(self) -> int:
        """Actors that there are at least."""
        return self.min if self.min is not None else self.count

    @property
    def highest(self) -> int:
        """Actors that there are at most."""
        return self.max if self.max is not None else max(self.count, self.lowest)

    @property
    def is_elastic(self) -> bool:
        """Whether the number of actors follows what is coming."""
        return self.lowest < self.highest

    @property
    def cpus(self) -> float:
        """Ray CPUs that one actor reserves."""
        return self.num_cpus if self.num_cpus is not None else float(self.is_elastic)

    def problems(self) -> list[str]:
        """What does not go together, as sentences."""
        wrong = []
        if self.lowest > self.highest:
            name = "min" if self.min is not None else "count"
            wrong.append(f"[workers] max: expected at least {name}, {self.lowest}, got {self.highest}")
        if self.is_elastic and not self.cpus:
            wrong.append(
                "[workers] num_cpus: expected more than 0 where min is below max: Ray's autoscaler sees no others"
            )
        return wrong
