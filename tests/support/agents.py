"""Stand-ins for workers, where a test is about the control plane alone."""

import asyncio
from collections.abc import Callable
from typing import Any

from fleet import subjects
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentRequested,
    AgentResponse,
    CriterionScore,
    Critique,
    Proposal,
    Scorecard,
    Usage,
    decode,
    encode,
)


def answer(call: AgentRequested, *, score: int | None = None) -> AgentCompleted:
    """What a worker would answer; scores depend on the author only, so that the right winner is known."""
    common = {
        "task_id": call.task_id,
        "agent_id": call.agent_id,
        "role": call.role,
        "phase": call.phase,
        "round": call.round,
        "attempt": 1,
        "model": "m",
        "num_agents": call.num_agents,
        "duration_ms": 10,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "usage": Usage(prompt_tokens=5, completion_tokens=3),
    }
    authors = call.labels.values()
    match call.phase:
        case "propose" | "revise":
            text = f"{call.phase} {call.round} by {call.agent_id}"
            proposal = Proposal(
                content=text,
                author_id=call.agent_id,
                author_role=call.role,
                model="m",
                temperature=0.7,
                tokens=3,
                revisions=call.revisions,
            )
            return AgentCompleted(proposal=proposal, **common)  # type: ignore[arg-type]
        case "critique":
            given = tuple(Critique(author_id=author, changes=(f"from {call.agent_id}",)) for author in authors)
            return AgentCompleted(critiques=given, **common)  # type: ignore[arg-type]
        case "score":
            cards = tuple(
                Scorecard(
                    author_id=author,
                    criteria={
                        name: CriterionScore(score=score if score is not None else int(author[-1]))
                        for name in ("correctness", "completeness", "clarity")
                    },
                )
                for author in authors
            )
            return AgentCompleted(scores=cards, **common)  # type: ignore[arg-type]


def failure(call: AgentRequested) -> AgentFailed:
    return AgentFailed(
        task_id=call.task_id,
        agent_id=call.agent_id,
        role=call.role,
        phase=call.phase,
        round=call.round,
        attempt=4,
        error="it broke",
        error_type="ServerError",
        retryable=True,
        num_agents=call.num_agents,
        duration_ms=10,
        timestamp="2026-01-01T00:00:00.000Z",
    )


async def serve(nc: Any, respond: Callable[[AgentRequested], AgentResponse | None]) -> None:
    """Takes `agent.requested` until cancelled; what `respond` returns is published, None leaves the call open."""
    js = nc.jetstream()
    sub = await js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
    while True:
        try:
            (msg,) = await sub.fetch(1, timeout=1)
        except TimeoutError:
            continue
        call = decode(msg.data, AgentRequested)
        response = respond(call)
        if response is not None:
            kind = subjects.AGENT_FAILED if isinstance(response, AgentFailed) else subjects.AGENT_COMPLETED
            await js.publish(kind, encode(response))
        await msg.ack()
        await asyncio.sleep(0)
