"""Writes what this version of the fleet puts on the wire and into the bucket: `python -m tests.recorded.record NAME`.

Once for each release, into a directory of its own that never changes again: `tests/unit/messages/test_recorded.py`
holds every later version against all of them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from fleet import subjects
from fleet.deliberation.events import (
    Announce,
    CallAgent,
    CancelAsked,
    Conclude,
    DeadlinePassed,
    Followed,
    Requested,
    Responded,
    ResultFound,
    ResultMissing,
)
from fleet.deliberation.machine import Decision, decide
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AgentProgress,
    AgentRequested,
    AgentStop,
    CancelReply,
    CancelRequest,
    ContentRef,
    DeadlineReached,
    DeliberationCompleted,
    DeliberationFailed,
    DeliberationRejected,
    FollowReply,
    Heartbeat,
    Judge,
    LookRequest,
    PromptAnswer,
    PromptError,
    PromptFile,
    PromptRequest,
    PromptStatus,
    PromptText,
    ResultReply,
    ResultRequest,
    ServiceError,
    TotalUsage,
    encode,
)
from fleet.messages.channels import CHANNELS
from fleet.requests.fields import DeliberationRequested
from fleet.requests.task import Task
from tests.support.agents import answer, failure

NOW = 1_767_225_600_000
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {"num_agents": 3, "correlation": {"story": "S-17"}, "requirements": ("survives a restart",)},
    "two-rounds": {"num_agents": 2, "rounds": 2, "rubric": {"correctness": 3.0, "cost": 1.0}, "early_stop": False},
    "alone": {"num_agents": 1},
    "mixed": {"num_agents": 4, "roles": ("DEV", "QA"), "models": ("a", "b"), "synthesis": True, "tie_margin": 0.5},
    "vote": {"num_agents": 3, "selection": "vote", "rounds": 0},
    "architect": {"num_agents": 3, "selection": "architect", "rounds": 0, "seed": 7},
}
"""Requests by task id; those with fields that a version does not know are left out there."""
Record = dict[str, Any]


def begin(
    task_id: str, fields: dict[str, Any], shadows: tuple[str, ...] = (), judges: tuple[Judge, ...] = ()
) -> Decision:
    task = Task(task_description="Design a rate limiter", **fields)
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return decide(None, Requested(task_id, task, 7, NOW, traceparent, shadows={"DEV": shadows}, judges=judges))


def called(decision: Decision) -> list[AgentRequested]:
    return [effect.request for effect in decision.outbox if isinstance(effect, CallAgent)]


def play(
    task_id: str,
    fields: dict[str, Any],
    *,
    fails: bool,
    shadows: tuple[str, ...] = (),
    judges: tuple[Judge, ...] = (),
) -> Iterator[Record]:
    """One deliberation: what is published, and its states at the beginning and in the middle of every phase."""
    decision = begin(task_id, fields, shadows, judges)
    waiting: list[AgentRequested] = []
    while True:
        yield from published(decision)
        yield {"state": decision.state}
        if decision.state.ended:
            return
        waiting += called(decision)
        first = True
        while True:
            call = waiting.pop(0)
            response = failure(call) if fails and first else answer(call)
            yield {subjects.AGENT_FAILED if fails and first else subjects.AGENT_COMPLETED: response}
            decision = decide(decision.state, Responded(response, NOW + 1000))
            if first and waiting and not decision.outbox:
                yield {"state": decision.state}
            first = False
            if decision.outbox:
                break


def published(decision: Decision) -> Iterator[Record]:
    for effect in decision.outbox:
        if isinstance(effect, Announce):
            yield {subjects.ACCEPTED: effect.accepted}
        elif isinstance(effect, CallAgent):
            yield {subjects.AGENT_REQUESTED: effect.request}
        elif isinstance(effect, Conclude):
            yield {"terminal": effect.event}


def everything() -> Iterator[Record]:
    for name, fields in SCENARIOS.items():
        if fields.keys() <= set(Task.__struct_fields__):
            yield from play(name, fields, fails=False)
    yield from play("shadows", {"num_agents": 2, "rounds": 0}, fails=False, shadows=("candidate",))
    judge = Judge(name="reward", kind="classify", model="rm", endpoint="rm-1")
    yield from play("judged", {"num_agents": 3, "rounds": 0}, fails=False, judges=(judge,))
    yield from play("one-fails", {"num_agents": 3}, fails=True)
    yield from play("fails", {"num_agents": 1}, fails=True)
    running = begin("ended-early", {"num_agents": 2}).state
    for event in (DeadlinePassed(NOW + 300_000), CancelAsked("enough", NOW + 2000)):
        ended = decide(running, event)
        yield from published(ended)
        yield {"state": ended.state}
    yield from cached()
    call = called(begin("said", {"num_agents": 1}))[0]
    slot = {name: getattr(call, name) for name in ("task_id", "agent_id", "role", "phase", "round", "attempt")}
    yield {
        subjects.AGENT_PROGRESS: AgentProgress(
            **slot, progress_pct=3, message="writing", text_delta="So ", tokens=1, timestamp="2026-01-01T00:00:00.000Z"
        )
    }
    yield {subjects.AGENT_STOP: AgentStop(task_id="said", run="6471e5a0c1d40")}
    yield {
        subjects.REJECTED: DeliberationRejected(
            task_id="said",
            code="invalid",
            path="$.num_agents",
            error="$.num_agents: must be at most 16, and is 17",
            stream_sequence=41,
            rejected_at="2026-01-01T00:00:00.000Z",
        )
    }


def cached() -> Iterator[Record]:
    """A request that waits for the result of an equal one, which it follows, and gets it."""
    task = Task(task_description="Design a rate limiter", num_agents=1, cache="use")
    first, waits = (decide(None, Requested(name, task, 7, NOW, cache_key="0af7")) for name in ("origin", "waits"))
    running = decide(first.state, ResultMissing(NOW))
    followed = decide(running.state, Followed("waits"))
    ended = decide(followed.state, Responded(answer(called(running)[0]), NOW + 1000))
    assert isinstance(ended.state.result, DeliberationCompleted)
    answered = decide(waits.state, ResultFound(ended.state.result, NOW + 1001))
    for decision in (waits, followed, ended, answered):
        yield from published(decision)
        yield {"state": decision.state}


def requests_and_replies() -> Iterator[Record]:
    """What clients send to the service, and each kind of answer."""
    yield {subjects.REQUESTED: DeliberationRequested(task_description="Design a rate limiter")}
    yield {subjects.REQUESTED: FULL_REQUEST}
    yield {subjects.REQUESTED: {"task_id": "long", "content_ref": {"name": "requests/long"}}}
    yield {subjects.RESULT: ResultRequest(task_id="said", wait_seconds=30)}
    yield {subjects.CANCEL: CancelRequest(task_id="said", reason="enough")}
    running = begin("said", {"num_agents": 2}).state
    ended = decide(running, CancelAsked("enough", NOW + 2000)).state
    yield {f"{subjects.RESULT}.reply": ResultReply(task_id="d-7", status="PENDING")}
    for state in (running, ended):
        yield {f"{subjects.RESULT}.reply": result_of(state)}
    yield {f"{subjects.FOLLOW}.reply": FollowReply(task_id="said", phase="propose", round=0, done=0, expected=2)}
    yield {
        f"{subjects.FOLLOW}.reply": FollowReply(
            task_id="said", phase="propose", round=0, done=1, expected=2, agent_id="agent-dev-001", outcome="Refused"
        )
    }
    yield {f"{subjects.CANCEL}.reply": CancelReply(task_id="said", status="CANCELLED")}
    for channel in (subjects.ASK, subjects.RESULT, subjects.CANCEL):
        yield {f"{channel}.reply": ServiceError(error="no task nobody", task_id="nobody", status="UNKNOWN")}
        yield {f"{channel}.reply": ServiceError(error="bad request: JSON is malformed")}
    council = asyncapi_id(subjects.PROMPT)
    yield {council: PromptRequest(prompt="Design a rate limiter")}
    yield {council: {"prompt": "Design a rate limiter", "deliberation": {"task_id": "said", "num_agents": 2}}}
    yield {f"{council}.reply": PromptStatus(data="ack")}
    yield {f"{council}.reply": PromptAnswer(data=PromptText(text="A rate "))}
    file = PromptFile(filename="deliberation.json", content="e30=")
    yield {f"{council}.reply": PromptAnswer(data=PromptText(text="limiter", attachments=(file,)))}
    yield {f"{council}.reply": PromptError(error="deliberation_failed", message="every agent failed", task_id="said")}
    yield {f"{council}.reply": PromptError(error="bad_request", message="bad prompt: it is empty")}
    beat = Heartbeat(
        agent="council", owner="fleet", session="default", instance_id="x", ts="2026-01-01T00:00:00.000Z", interval_s=30
    )
    yield {asyncapi_id(subjects.HEARTBEAT): beat}
    yield {subjects.CONTROL_CANCEL: CancelRequest(task_id="said", reason="enough")}
    yield {subjects.CONTROL_DEADLINE: DeadlineReached(task_id="said")}
    yield {subjects.CONTROL_LOOK: LookRequest(task_id="said", ended="origin")}


FULL_REQUEST = {
    "task_id": "full",
    "task_description": "Design a rate limiter",
    "role": "architect",
    "num_agents": 2,
    "rounds": 1,
    "constraints": {
        "rubric": {"correctness": 3, "cost": 0.5},
        "requirements": ["survives a restart"],
        "metadata": {"language": "Go", "limits": [1, None]},
        "timeout_seconds": 120,
        "policy": {"required": ["rollback"], "forbidden": None},
        "architect_rubric": "the simplest",
    },
    "correlation": {"story": "S-17"},
    "options": {
        "early_stop": False,
        "seed": -7,
        "roles": ["DEV"],
        "models": ["a", "b"],
        "selection": "architect",
        "top_k": 2,
        "tie_margin": 0.5,
        "synthesis": True,
        "output_schema": {"type": "object"},
        "max_total_tokens": 100_000,
        "cache": "use",
    },
}


def asyncapi_id(subject: str) -> str:
    return next(channel.id for channel in CHANNELS if channel.subject == subject)


def result_of(state: Deliberation) -> ResultReply:
    return ResultReply(
        task_id=state.task_id,
        status=state.status,
        progress=state.progress,
        result=state.result,
        accepted_at=state.accepted_at,
        deadline_at=state.deadline_at,
        correlation=state.task.correlation,
        usage=None if state.ended else TotalUsage(prompt_tokens=310, completion_tokens=412, calls=1),
        cost=None if state.ended else 0.0012,
    )


def by_reference(records: Iterator[Record]) -> Iterator[Record]:
    """The first message of each kind as if it had not fitted; and replies."""
    kept = {channel.message: channel.kept for channel in CHANNELS if channel.kept}
    ref = ContentRef(bucket=subjects.TEXTS, name="tasks/said/body-0123", bytes=2_000_000)
    for record in records:
        ((channel, message),) = record.items()
        kind = "DeliberationFailed" if isinstance(message, DeliberationFailed) else type(message).__name__
        if fields := kept.pop(kind, None):
            body = to_builtins(message)
            yield {channel: {**{name: body[name] for name in fields}, "content_ref": ref}}
    for subject in (subjects.ASK, subjects.RESULT):
        yield {f"{subject}.reply": {"task_id": "said", "status": "COMPLETED", "content_ref": ref}}


def main(version: str, directory: Path) -> None:
    target = directory / version
    target.mkdir()
    records = list(everything())
    files = {
        "states": [record for record in records if "state" in record],
        "messages": [record for record in records if "state" not in record],
        "interface": [*requests_and_replies(), *by_reference(iter(records))],
    }
    for name, lines in files.items():
        unique = dict.fromkeys(encode(record).decode() for record in lines)
        (target / f"{name}.json").write_text("[\n" + ",\n".join(unique) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).parent)
