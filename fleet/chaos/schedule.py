"""What goes wrong, and when: decided by the seed before anything begins. Pure."""

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Final, Literal

from msgspec import Struct

from fleet import crashpoints, subjects

Kind = Literal[
    "kill",  # SIGKILL
    "term",  # SIGTERM
    "stop",  # SIGSTOP, later SIGCONT
    "crash",  # at a named point of the code
    "clock",  # a replica whose clock is an hour off
    "partition",  # bytes are held back, then flow again
    "cut",  # connections are closed
    "model",  # of the model server
    "responses",  # repeated, late, in another order, or forged
    "malformed",  # bytes that are no message
    "delete",  # a durable or a stream, under the running fleet
    "full",  # a stream, or the store
]

PROCESSES: Final = ("dispatcher", "collector", "actor", "actors", "raylet", "gcs", "nats")
MODEL_FAULTS: Final = (
    *("hang", "refuse", "http_429", "http_500", "http_503", "stall", "truncate", "malformed", "empty", "flapping"),
    "stop",
)
LINKS: Final = ("all", "dispatcher", "collector", "worker", "some")
RESPONSES: Final = ("duplicate", "reordered", "late", "forged")
MALFORMED: Final = (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.CONTROL_CANCEL, subjects.AGENT_REQUESTED)
DURABLES: Final = (subjects.DISPATCHER, subjects.COLLECTOR, subjects.CONTROLLER, subjects.WORKERS)
STREAMS: Final = (subjects.AGENT_REQUESTS, subjects.AGENT_RESPONSES, subjects.AGENT_PROGRESS_STREAM)
FULL: Final = (subjects.DELIBERATION_REQUESTS, subjects.AGENT_REQUESTS, subjects.AGENT_RESPONSES, "store")
CLOCKS: Final = ("dispatcher +1h", "dispatcher -1h", "collector +1h", "collector -1h")

SAFE: Final[tuple[Kind, ...]] = ("responses", "malformed")
"""What may be done to somebody else's cluster."""


class Fault(Struct, frozen=True, kw_only=True):
    """At `at_s` after the start, for `for_s`. `chance` (0 … 1) decides what the kind and target leave open."""

    number: int
    at_s: float
    kind: Kind
    target: str
    for_s: float
    chance: float


def plan(seed: int, count: int, *, stop_s: float, ack_wait_s: float, safe: bool = False) -> tuple[Fault, ...]:
    """`count` faults in order of time; every kind of fault comes once before any comes twice."""
    rng = Random(f"{seed}/faults")
    at_s = 2.0
    faults = []
    for number, (kind, target) in enumerate(islice(_deck(rng, safe), count)):
        for_s = _duration(rng, kind, stop_s, ack_wait_s)
        fault = Fault(
            number=number, at_s=round(at_s, 2), kind=kind, target=target, for_s=round(for_s, 2), chance=rng.random()
        )
        faults.append(fault)
        # Long ones overlap with what follows them.
        at_s += for_s * rng.uniform(0.3, 1.0) + rng.uniform(1.0, 4.0)
    return tuple(faults)


def horizon_s(faults: tuple[Fault, ...]) -> float:
    """When the last of them is over."""
    return max((fault.at_s + fault.for_s for fault in faults), default=0.0)


def _deck(rng: Random, safe: bool) -> Iterator[tuple[Kind, str]]:
    cards = [card for card in CATALOGUE if not safe or card[0] in SAFE]
    # By kind in turns: a short run sees every family, not many of the largest one.
    families: dict[Kind, list[str]] = {}
    for kind, target in cards:
        families.setdefault(kind, []).append(target)
    for targets in families.values():
        rng.shuffle(targets)
    while True:
        longest = max(len(targets) for targets in families.values())
        left = {kind: list(targets) for kind, targets in families.items()}
        for _ in range(longest):
            kinds = [kind for kind, targets in left.items() if targets]
            rng.shuffle(kinds)
            for kind in kinds:
                yield kind, left[kind].pop()


def _duration(rng: Random, kind: Kind, stop_s: float, ack_wait_s: float) -> float:
    match kind:
        case "stop":
            return rng.uniform(stop_s / 4, stop_s)
        case "partition":
            return ack_wait_s + rng.uniform(1.0, 5.0)
        case "model" | "full":
            return rng.uniform(2.0, 6.0)
        case "clock":
            return rng.uniform(3.0, 6.0)
        case _:
            return 0.0


CATALOGUE: Final[tuple[tuple[Kind, str], ...]] = (
    *(("kill", target) for target in PROCESSES),
    *(("term", target) for target in PROCESSES),
    *(("stop", target) for target in PROCESSES),
    *(("crash", point) for point in crashpoints.POINTS),
    *(("clock", target) for target in CLOCKS),
    *(("partition", target) for target in LINKS),
    *(("cut", target) for target in LINKS),
    *(("model", fault) for fault in MODEL_FAULTS),
    *(("responses", how) for how in RESPONSES),
    *(("malformed", subject) for subject in MALFORMED),
    *(("delete", target) for target in (*DURABLES, *STREAMS)),
    *(("full", target) for target in FULL),
)
