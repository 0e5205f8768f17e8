"""Lists which message stands on which subject, for the AsyncAPI document."""

from dataclasses import dataclass
from typing import Literal

from fleet import subjects


@dataclass(frozen=True, slots=True)
class Channel:
    """One subject, and what the fleet does with it. `kept`: the fields that a body by reference keeps beside it."""

    subject: str
    action: Literal["send", "receive"]
    message: str
    summary: str
    kept: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()
    headers: bool = True
    """Whether what the fleet sends has the headers of its events."""

    @property
    def id(self) -> str:
        """The subject, without the fleet's name in it."""
        return self.subject.partition(".{")[0]


TERMINAL_KEPT = ("task_id", "status")
_ANSWER_KEPT = (
    *("task_id", "agent_id", "role", "phase", "round", "question", "run", "shadow"),
    *("attempt", "status", "duration_ms"),
)
RESULT = ("DeliberationCompleted", "DeliberationFailed", "DeliberationCancelled")

CHANNELS = (
    Channel(subjects.REQUESTED, "receive", "DeliberationRequested", "Please deliberate."),
    Channel(
        subjects.ACCEPTED,
        "send",
        "DeliberationAccepted",
        "Recorded; work begins.",
        ("task_id", "status", "stream_sequence"),
    ),
    Channel(
        subjects.REJECTED,
        "send",
        "DeliberationRejected",
        "The request was bad; says why.",
        ("task_id", "stream_sequence"),
    ),
    Channel(subjects.COMPLETED, "send", "DeliberationCompleted", "Terminal: ranked results.", TERMINAL_KEPT),
    Channel(subjects.FAILED, "send", "DeliberationFailed", "Terminal: no proposal.", TERMINAL_KEPT),
    Channel(subjects.CANCELLED, "send", "DeliberationCancelled", "Terminal: stopped.", TERMINAL_KEPT),
    Channel(subjects.AGENT_REQUESTED, "send", "AgentRequested", "One agent call, complete.", ("task_id",)),
    Channel(subjects.AGENT_COMPLETED, "send", "AgentCompleted", "The call's answer.", _ANSWER_KEPT),
    Channel(subjects.AGENT_FAILED, "send", "AgentFailed", "The call gave up; says why.", _ANSWER_KEPT),
    Channel(subjects.AGENT_PROGRESS, "send", "AgentProgress", "Text so far."),
    Channel(subjects.AGENT_STOP, "send", "AgentStop", "Close every open call of a task."),
    Channel(subjects.CONTROL_CANCEL, "send", "CancelRequest", "A cancellation, made durable."),
    Channel(subjects.CONTROL_DEADLINE, "receive", "DeadlineReached", "A scheduled deadline whose time has come."),
    Channel(subjects.CONTROL_LOOK, "send", "LookRequest", "Look for the result of an equal request."),
    # Endpoints of the micro service; one that replies several times names all of its replies.
    Channel(
        subjects.ASK,
        "receive",
        "DeliberationRequested",
        "Request, and answer with the terminal event.",
        replies=(*RESULT, "ReplyByReference", "DeliberationRejected", "ServiceError"),
    ),
    Channel(
        subjects.FOLLOW,
        "receive",
        "DeliberationRequested",
        "Request, or name a task, and see it at work: several replies, then an empty message.",
        replies=("FollowReply", "ResultReply", *RESULT, "ReplyByReference", "DeliberationRejected", "ServiceError"),
    ),
    Channel(
        subjects.RESULT,
        "receive",
        "ResultRequest",
        "Status now, or wait for the end.",
        replies=("ResultReply", "ReplyByReference", "ServiceError"),
    ),
    Channel(
        subjects.CANCEL,
        "receive",
        "CancelRequest",
        "Stop it and free the GPU.",
        replies=("CancelReply", "ServiceError"),
    ),
    # The council as an agent of Synadia's agent protocol.
    Channel(
        subjects.PROMPT,
        "receive",
        "PromptRequest",
        "Request in the agent protocol: statuses, the answer in pieces or an error, then an empty message.",
        replies=("PromptStatus", "PromptAnswer", "PromptError"),
    ),
    Channel(subjects.HEARTBEAT, "send", "Heartbeat", "An instance of the agent is there.", headers=False),
)
