"""The table of streams: what each one takes, who reads it, and what a running task needs again when it is lost.

`topology` declares them, and adds the limits that are settings; dead letters and recovery go by the table alone.
"""

from dataclasses import dataclass
from typing import Final, Literal

from fleet import subjects


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """A durable. One filter each: with several of them NATS has left out messages, more than once.

    `deliver`: the subject that a push consumer delivers to, for the control plane; None: workers pull.
    """

    name: str
    filter: str
    deliver: str | None = None


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """`work_queue`: a message is gone once it is acknowledged. `reissue`: what is published again after a loss."""

    name: str
    subjects: tuple[str, ...]
    consumer: ConsumerSpec | None = None
    work_queue: bool = False
    reissue: Literal["calls", "deadlines"] | None = None


STREAMS: Final = (
    StreamSpec(
        subjects.DELIBERATION_REQUESTS,
        (subjects.REQUESTED,),
        ConsumerSpec(subjects.DISPATCHER, subjects.REQUESTED, subjects.DELIVER_REQUESTS),
        work_queue=True,
    ),
    StreamSpec(subjects.DELIBERATIONS, (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL)),
    StreamSpec(
        subjects.DELIBERATION_CONTROL,
        (subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE, subjects.schedule_of("*")),
        ConsumerSpec(subjects.CONTROLLER, subjects.CONTROL, subjects.DELIVER_CONTROL),
        work_queue=True,
        reissue="deadlines",
    ),
    StreamSpec(
        subjects.AGENT_REQUESTS,
        (subjects.AGENT_REQUESTED,),
        ConsumerSpec(subjects.WORKERS, subjects.AGENT_REQUESTED),
        work_queue=True,
        reissue="calls",
    ),
    StreamSpec(
        subjects.AGENT_RESPONSES,
        (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED),
        ConsumerSpec(subjects.COLLECTOR, subjects.AGENT_RESPONSE, subjects.DELIVER_RESPONSES),
        reissue="calls",
    ),
    StreamSpec(subjects.AGENT_PROGRESS_STREAM, (subjects.AGENT_PROGRESS,)),
    StreamSpec(subjects.DEAD_LETTERS, (f"{subjects.DEADLETTER}.>",)),
)
