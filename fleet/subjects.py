"""Spells every subject, stream, consumer and bucket name once. `subjects.md` is the published form."""

import hashlib
from collections.abc import Mapping
from typing import Final

_SECOND_DIGITS: Final = 18
"""No sequence has more: 2^63 would take 300,000 years at a million a second."""

# client -> fleet
REQUESTED: Final = "deliberation.requested"
CANCEL: Final = "deliberation.cancel"
RESULT: Final = "deliberation.result"
ASK: Final = "deliberation.ask"
FOLLOW: Final = "deliberation.follow"

# the council as an agent of Synadia's agent protocol: `of_fleet` puts the fleet's name in
AGENTS_SERVICE: Final = "agents"
AGENT: Final = "council"
PROMPT: Final = "agents.prompt.council.{fleet}.default"
PROMPT_STATUS: Final = "agents.status.council.{fleet}.default"
HEARTBEAT: Final = "agents.hb.council.{fleet}.default"
HEARTBEATS: Final = "agents.hb.*.*.*"
"""What clients of that protocol listen to: heartbeats of every agent."""

# fleet -> all
ACCEPTED: Final = "deliberation.accepted"
REJECTED: Final = "deliberation.rejected"
COMPLETED: Final = "deliberation.completed"
FAILED: Final = "deliberation.failed"
CANCELLED: Final = "deliberation.cancelled"
TERMINAL: Final = (COMPLETED, FAILED, CANCELLED)

# fleet <-> workers
AGENT_REQUESTED: Final = "agent.requested"
AGENT_COMPLETED: Final = "agent.response.completed"
AGENT_FAILED: Final = "agent.response.failed"
AGENT_PROGRESS: Final = "agent.response.progress"
AGENT_RESPONSE: Final = "agent.response.*"
"""The filter of the collector's consumer. Its stream has no progress in it."""
AGENT_STOP: Final = "agent.stop"
"""Core NATS, no stream: close every open call of a task that has ended."""

# fleet -> fleet
CONTROL_CANCEL: Final = "control.cancel"
CONTROL_DEADLINE: Final = "control.deadline"
CONTROL_LOOK: Final = "control.look"
CONTROL: Final = "control.*"
"""The filter of the controller's consumer: no schedules."""
CONTROL_SCHEDULE: Final = "control.schedule"
"""Prefix: `control.schedule.<key>` holds the scheduled message that becomes `control.deadline`."""

DEADLETTER: Final = "deadletter"
"""Prefix: `deadletter.<original subject>`."""

# streams
DELIBERATION_REQUESTS: Final = "DELIBERATION_REQUESTS"
DELIBERATIONS: Final = "DELIBERATIONS"
DELIBERATION_CONTROL: Final = "DELIBERATION_CONTROL"
AGENT_REQUESTS: Final = "AGENT_REQUESTS"
AGENT_RESPONSES: Final = "AGENT_RESPONSES"
AGENT_PROGRESS_STREAM: Final = "AGENT_PROGRESS"
DEAD_LETTERS: Final = "DEAD_LETTERS"
TENANT_TOKENS: Final = "TENANT_TOKENS"

# durable consumers
DISPATCHER: Final = "dispatcher"
COLLECTOR: Final = "collector"
CONTROLLER: Final = "controller"
WORKERS: Final = "workers"

# what the push consumers deliver to; one queue group per consumer shares the load between replicas
DELIVER_REQUESTS: Final = "fleet.deliver.requests"
DELIVER_RESPONSES: Final = "fleet.deliver.responses"
DELIVER_CONTROL: Final = "fleet.deliver.control"

# key-value bucket and object store
BUCKET: Final = "deliberations"
TEXTS: Final = "deliberation-texts"
ANSWERS: Final = "deliberation-answers"
"""What workers store, who may not write to the other one."""
STATES: Final = f"KV_{BUCKET}"
TEXTS_STREAM: Final = f"OBJ_{TEXTS}"
ANSWERS_STREAM: Final = f"OBJ_{ANSWERS}"
"""The streams behind bucket and object stores."""
WORKERS_BUCKET: Final = "deliberation-workers"
"""What workers tell of themselves, and how they share the limits of endpoints. In memory, for a minute."""
WORKERS_STREAM: Final = f"KV_{WORKERS_BUCKET}"
KEYS: Final = "deliberation-keys"
"""What only the control plane may read: see `fleet.control.call_tokens`."""
KEYS_STREAM: Final = f"KV_{KEYS}"
CACHE: Final = "deliberation-cache"
"""Which task an equal request may be answered from: see `fleet.control.caching.slots`."""
CACHE_STREAM: Final = f"KV_{CACHE}"
LIMITS_KEY: Final = "limits"
CLOCK_KEYS: Final = "clock"
"""Prefix: a worker writes there to learn what time it is for NATS."""
STATUS_KEYS: Final = "status"
"""Prefix: `status.<worker>`."""
POOL_KEY: Final = "pool"
"""How many workers there should be: what the collectors decide, and every dispatcher follows."""
TURN_KEY: Final = "turn"
"""Which dispatcher may begin deliberations of tenants that have a `max_in_flight`."""

DESCRIPTIONS: Final[Mapping[str, str]] = {
    DELIBERATION_REQUESTS: "Requests for deliberations, until a dispatcher has recorded them.",
    DELIBERATIONS: "Events of deliberations: accepted, rejected, completed, failed, cancelled.",
    DELIBERATION_CONTROL: "Cancellations, scheduled deadlines, and looks for results of equal requests.",
    AGENT_REQUESTS: "Agent calls, until a worker has answered them.",
    AGENT_RESPONSES: "Answers and failures of agent calls.",
    AGENT_PROGRESS_STREAM: "Text of agent calls as it is written, for minutes.",
    DEAD_LETTERS: "Messages that could not be handled, whole, with the reason in their headers.",
    TENANT_TOKENS: "Tokens that tenants have used, by day: counters.",
    DISPATCHER: "Dispatchers record requests.",
    COLLECTOR: "Collectors move deliberations on by the answers of agents.",
    CONTROLLER: "Collectors end deliberations at their deadline or on request, and look for results of equal ones.",
    WORKERS: "Workers pull agent calls.",
    BUCKET: "States of deliberations, by task id.",
    WORKERS_BUCKET: "What workers tell of themselves, how they share limits of model servers, how many are wanted.",
    KEYS: "What only the control plane may know.",
    CACHE: "Which task an equal request may be answered from.",
    TEXTS: "Texts and bodies that do not fit one message.",
    ANSWERS: "Answers of agents that do not fit one message, and notes of workers.",
}
"""Of each stream, consumer, bucket and object store, as `nats stream info` and its like show it."""

SERVICE: Final = "deliberations"

ENDPOINT_MESSAGES: Final[Mapping[str, Mapping[str, str]]] = {
    ASK: {
        "request": "DeliberationRequested",
        "reply": "DeliberationCompleted, DeliberationFailed, DeliberationCancelled, ReplyByReference, "
        "DeliberationRejected, ServiceError",
    },
    FOLLOW: {
        "request": "DeliberationRequested",
        "reply": "FollowReply, ResultReply, DeliberationCompleted, DeliberationFailed, DeliberationCancelled, "
        "ReplyByReference, DeliberationRejected, ServiceError",
    },
    RESULT: {"request": "ResultRequest", "reply": "ResultReply, ReplyByReference, ServiceError"},
    CANCEL: {"request": "CancelRequest", "reply": "CancelReply, ServiceError"},
    PROMPT: {"request": "PromptRequest", "reply": "PromptStatus, PromptAnswer, PromptError"},
}
"""What each endpoint takes and gives: names of messages in the AsyncAPI document."""

DEAD_LETTER_GROUP: Final = "fleet-dead-letters"
"""Queue group that shares the advisories of exhausted messages."""


def instance_of(instance: str) -> str:
    """Subject on which one dispatcher or collector answers whether it is at work on a task."""
    return f"fleet.instance.{instance}"


def of_fleet(subject: str, fleet: str) -> str:
    """A subject of the agent protocol, of the fleet with this name; `*`: of any."""
    return subject.replace("{fleet}", fleet)


def schedule_of(key: str) -> str:
    """The subject that holds the scheduled deadline of one task, by its key."""
    return f"{CONTROL_SCHEDULE}.{key}"


def status_of(worker: str) -> str:
    """The subject under which a worker tells how it is: a key of `WORKERS_BUCKET`."""
    return f"$KV.{WORKERS_BUCKET}.{STATUS_KEYS}.{worker}"


POOL: Final = f"$KV.{WORKERS_BUCKET}.{POOL_KEY}"
TURN: Final = f"$KV.{WORKERS_BUCKET}.{TURN_KEY}"


def deadletter_of(subject: str) -> str:
    """The subject a message from `subject` is kept under once nobody could handle it."""
    return f"{DEADLETTER}.{subject}"


def exhausted(stream: str, consumer: str) -> str:
    """What NATS publishes when a message was delivered as often as `max_deliver` allows."""
    return f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}"


CONSUMER_CREATE: Final = "$JS.API.CONSUMER.CREATE.>"
"""Where NATS is asked for consumers."""


def purge_of(stream: str) -> str:
    """Where NATS is asked to purge a stream."""
    return f"$JS.API.STREAM.PURGE.{stream}"


def is_pattern(subject: str) -> bool:
    """Whether it stands for several subjects."""
    return subject == ">" or subject.endswith(".>") or "*" in subject.split(".")


def replayed(sequence: int | str) -> str:
    """Where it is noted that, and where to, the dead letter with this sequence was handed in again."""
    return f"{DEADLETTER}.replayed.{sequence}"


def generated_id(sequence: int) -> str:
    """The id of a task whose request names none: its client knows the sequence from the PubAck."""
    return f"d-{sequence}"


def second_id(sequence: int, own: str) -> str:
    """The id of such a task where the first one is another task's: the stream was set back, and gives out its numbers
    again. `own` is what no other request has: its message id, or without one its run.
    """
    number = int(hashlib.sha256(own.encode()).hexdigest(), 16) % 10**_SECOND_DIGITS
    return f"{generated_id(sequence)}{number:0{_SECOND_DIGITS}d}"


def sequence_in(task_id: str) -> int | None:
    """Of the request whose id, the first or the second one, the fleet has made; None in a client's own id."""
    prefix, _, digits = task_id.partition("-")
    if prefix != "d" or not (digits.isascii() and digits.isdecimal()):
        return None
    first = digits[:-_SECOND_DIGITS] if len(digits) > _SECOND_DIGITS else digits
    return int(first) if len(first) <= _SECOND_DIGITS else None


def is_task_id(task_id: str) -> bool:
    """Whether a client may name a task so."""
    return 0 < len(task_id) <= 64 and all(char.isascii() and (char.isalnum() or char in "_-") for char in task_id)


def covers(pattern: str, subject: str) -> bool:
    """Whether a pattern of NATS' covers a subject, or all that another pattern covers: `*` is a token, `>` the rest."""
    expected, tokens = pattern.split("."), subject.split(".")
    for position, token in enumerate(expected):
        if token == ">":
            return len(tokens) > position
        if position >= len(tokens) or tokens[position] == ">" or token not in ("*", tokens[position]):
            return False
    return len(expected) == len(tokens)
