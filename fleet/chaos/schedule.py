"""Decides which faults happen when, from the seed, before anything begins. Pure."""

from collections.abc import Collection, Iterator
from itertools import islice
from random import Random
from typing import Final, Literal

from msgspec import Struct

from fleet import crashpoints, subjects

Kind = Literal[
    "kill",  # SIGKILL
    "term",  # SIGTERM
    "stop",  # SIGSTOP, later SIGCONT
    "roll",  # SIGTERM to all of a kind, one after the other, as an upgrade does
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

Card = tuple[Kind, str]
"""A kind of fault, and its target."""

PROCESSES: Final = ("dispatcher", "collector", "actor", "actors", "raylet", "gcs", "nats")
ROLLED: Final = ("dispatcher", "collector", "actor")
MODEL_FAULTS: Final = (
    *("hang", "refuse", "http_429", "http_500", "http_503", "stall", "truncate", "malformed", "empty", "flapping"),
    "stop",
)
LINKS: Final = ("all", "dispatcher", "collector", "worker", "some")
STUCK: Final = "stuck"
"""Every link that there is; new ones pass, so that what was written to the old one and to the new one both arrive."""
RESPONSES: Final = ("duplicate", "reordered", "late", "forged")
MALFORMED: Final = (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.CONTROL_CANCEL, subjects.AGENT_REQUESTED)
DURABLES: Final = (subjects.DISPATCHER, subjects.COLLECTOR, subjects.CONTROLLER, subjects.WORKERS)
STREAMS: Final = (
    subjects.DELIBERATION_CONTROL,
    subjects.AGENT_REQUESTS,
    subjects.AGENT_RESPONSES,
    subjects.AGENT_PROGRESS_STREAM,
)
"""Not those whose loss nothing can repair: requests that nobody has taken yet, states, and the events themselves."""
FULL: Final = (subjects.DELIBERATION_REQUESTS, subjects.AGENT_REQUESTS, subjects.AGENT_RESPONSES, "store")
CLOCKS: Final = ("dispatcher +1h", "dispatcher -1h", "collector +1h", "collector -1h")

SAFE: Final[tuple[Kind, ...]] = ("responses", "malformed")
"""What may be done to somebody else's cluster."""


MEASURED: Final = ("dispatcher", "collector", "actor", "actors", "nats")
"""A kill of one of these is left alone, so that the recovery can be measured."""
SETTLED_S, QUIET_S = 8.0, 14.0


class Fault(Struct, frozen=True, kw_only=True):
    """At `at_s` after the start, for `for_s`. `chance` (0 … 1) decides what the kind and target leave open."""

    number: int
    at_s: float
    kind: Kind
    target: str
    for_s: float
    chance: float


def plan(seed: int, count: int, cards: Collection[Card], *, stop_s: float, ack_wait_s: float) -> tuple[Fault, ...]:
    """`count` faults out of `cards`, in order of time; each card comes once before any comes twice."""
    rng = Random(f"{seed}/faults")
    at_s = over_s = 2.0
    faults = []
    for number, (kind, target) in enumerate(islice(_deck(rng, cards), count)):
        for_s = _duration(rng, kind, stop_s, ack_wait_s)
        measured = kind == "kill" and target in MEASURED
        if measured:
            at_s = max(at_s, over_s + SETTLED_S)
        fault = Fault(
            number=number, at_s=round(at_s, 2), kind=kind, target=target, for_s=round(for_s, 2), chance=rng.random()
        )
        faults.append(fault)
        over_s = max(over_s, at_s + for_s)
        # Long ones overlap with what follows them.
        at_s += QUIET_S if measured else for_s * rng.uniform(0.3, 1.0) + rng.uniform(1.0, 4.0)
    return tuple(faults)


def horizon_s(faults: tuple[Fault, ...]) -> float:
    """When the last of them is over."""
    return max((fault.at_s + fault.for_s for fault in faults), default=0.0)


def cards(only: Collection[str] = (), *, safe: bool = False) -> tuple[Card, ...]:
    """Those of the catalogue that `only` names, as `kind` or `kind:target`; all of them when it names none."""
    return tuple(
        (kind, target)
        for kind, target in CATALOGUE
        if (not safe or kind in SAFE) and (not only or kind in only or f"{kind}:{target}" in only)
    )


def _deck(rng: Random, cards: Collection[Card]) -> Iterator[Card]:
    # By kind in turns: a short run sees every family, not many of the largest one.
    families: dict[Kind, list[str]] = {}
    for kind, target in cards:
        families.setdefault(kind, []).append(target)
    for targets in families.values():
        rng.shuffle(targets)
    while families:
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
            return ack_wait_s + rng.uniform(1.0, 12.0)  # some are longer than a connection lives without pongs
        case "model" | "full":
            return rng.uniform(2.0, 6.0)
        case "clock" | "crash":
            return rng.uniform(3.0, 6.0)
        case _:
            return 0.0


CATALOGUE: Final[tuple[Card, ...]] = (
    *(("kill", target) for target in PROCESSES),
    *(("term", target) for target in PROCESSES),
    *(("stop", target) for target in PROCESSES),
    *(("roll", target) for target in ROLLED),
    *(("crash", point) for point in crashpoints.POINTS),
    *(("clock", target) for target in CLOCKS),
    *(("partition", target) for target in (*LINKS, STUCK)),
    *(("cut", target) for target in LINKS),
    *(("model", fault) for fault in MODEL_FAULTS),
    *(("responses", how) for how in RESPONSES),
    *(("malformed", subject) for subject in MALFORMED),
    *(("delete", target) for target in (*DURABLES, *STREAMS)),
    *(("full", target) for target in FULL),
)
