"""Answers agent calls instead of workers, where a test is about the control plane alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import nats.js.errors

from fleet import subjects
from fleet.control.call_tokens import CallTokens
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentRequested,
    AgentResponse,
    AttemptTally,
    CallFacts,
    Choice,
    CriterionScore,
    Critique,
    ModelUsage,
    Proposal,
    Reward,
    Scorecard,
    Synthesis,
    Usage,
    decode,
    encode,
)
from fleet.messages.headers import CALL_TOKEN
from tests.support.waiting import until
from workers.calls.publisher import WorkerPublisher

Judge = Callable[[AgentRequested, str], float]
"""(call, author of a proposal) -> score 0 … 10."""


def by_author(call: AgentRequested, author: str) -> float:
    """Scores depend on the author only, so that the right winner is known: the number in its name; a merged text: 0."""
    return int(author[-1]) if author[-1].isdigit() else 0


def answer(
    call: AgentRequested, *, judge: Judge = by_author, text: str | None = None, model: str = "m", tokens: int = 3
) -> AgentCompleted:
    """What a worker would answer. `text`: of a proposal or a synthesis; a different one for each call by default."""
    usage = Usage(prompt_tokens=5, completion_tokens=tokens)
    tally = AttemptTally(endpoint="gpu-1", model=call.model or model, outcome="completed", usage=usage)
    common: dict[str, Any] = {
        "task_id": call.task_id,
        "agent_id": call.agent_id,
        "role": call.role,
        "phase": call.phase,
        "round": call.round,
        "question": call.question,
        "run": call.run,
        "shadow": call.shadow,
        "attempt": 1,
        "model": call.model or model,
        "num_agents": call.num_agents,
        "duration_ms": 10,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "usage": usage,
        "facts": CallFacts(endpoint=tally.endpoint, model=tally.model, first_token_ms=4, attempts=(tally,)),
        "usage_by_model": {call.model or model: ModelUsage(prompt_tokens=5, completion_tokens=tokens, calls=1)},
        "correlation": call.correlation,
        "correlation_ref": call.correlation_ref,
    }
    authors = tuple(call.labels.values())
    if call.judge is not None:
        reward = Reward(value=judge(call, authors[0]), kind=call.judge.kind, model=call.judge.model or "rm")
        used = ModelUsage(prompt_tokens=5, completion_tokens=0, calls=1)
        common |= {"model": reward.model, "usage": used.usage, "usage_by_model": {reward.model: used}}
        return AgentCompleted(reward=reward, **common)
    written = f"{call.phase} {call.round} by {call.agent_id}" if text is None else text
    match call.phase:
        case "propose" | "revise":
            proposal = Proposal(
                content=written,
                author_id=call.agent_id,
                author_role=call.role,
                model=call.model or model,
                temperature=0.7,
                tokens=tokens,
                revisions=call.revisions,
            )
            return AgentCompleted(proposal=proposal, **common)
        case "critique":
            critiques = tuple(
                Critique(
                    author_id=author,
                    changes=("Say what happens when it fails.",),
                    scores={name: judge(call, author) for name in criteria(call)},
                )
                for author in authors
            )
            return AgentCompleted(critiques=critiques, **common)
        case "score":
            cards = tuple(
                Scorecard(
                    author_id=author,
                    criteria={name: CriterionScore(score=judge(call, author)) for name in criteria(call)},
                )
                for author in authors
            )
            return AgentCompleted(scores=cards, **common)
        case "vote" | "compare" | "choose":
            best = max(authors, key=lambda author: judge(call, author))
            return AgentCompleted(choice=Choice(author_id=best, rationale="It is."), **common)
        case "synthesise":
            merged = Synthesis(
                content=written, author_id=call.agent_id, model=common["model"], tokens=tokens, sources=authors
            )
            return AgentCompleted(synthesis=merged, **common)


def criteria(call: AgentRequested) -> list[str]:
    """The criteria that a critique or score call asks for."""
    assert call.answer_schema is not None
    card = next(iter(call.answer_schema["properties"].values()))["properties"]
    if call.phase == "critique":
        return list(card["scores"]["properties"])
    return [name for name, inner in card.items() if inner["type"] == "integer" or "score" in inner["properties"]]


def failure(call: AgentRequested) -> AgentFailed:
    return AgentFailed(
        task_id=call.task_id,
        agent_id=call.agent_id,
        role=call.role,
        phase=call.phase,
        round=call.round,
        question=call.question,
        run=call.run,
        shadow=call.shadow,
        attempt=4,
        error="it broke",
        error_type="ServerError",
        retryable=True,
        num_agents=call.num_agents,
        duration_ms=10,
        timestamp="2026-01-01T00:00:00.000Z",
    )


async def publish(js: Any, response: AgentResponse) -> None:
    """As a worker that was given the call."""
    kind = subjects.AGENT_FAILED if isinstance(response, AgentFailed) else subjects.AGENT_COMPLETED
    await js.publish(kind, encode(response), headers={CALL_TOKEN: (await CallTokens.open(js)).of(response)})


@asynccontextmanager
async def answering(nc: Any, respond: Callable[[AgentRequested], AgentResponse | None] = answer) -> AsyncIterator[None]:
    """`serve` does, meanwhile. Raises what has ended it."""
    task = asyncio.create_task(serve(nc, respond))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def serve(nc: Any, respond: Callable[[AgentRequested], AgentResponse | None]) -> None:
    """Takes `agent.requested` until cancelled; what `respond` returns is published, None leaves the call open."""
    js = nc.jetstream()
    publisher = WorkerPublisher(nc)
    sub = await js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
    task = asyncio.current_task()
    try:
        while True:
            try:
                (msg,) = await sub.fetch(1, timeout=1)
            except (TimeoutError, nats.js.errors.Error):  # the consumer may be gone for a while
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError from None  # nats-py takes it for the end of its time
                await asyncio.sleep(0.05)
                continue
            call = await publisher.with_parts(decode(await publisher.inline(msg.data), AgentRequested))
            response = respond(call)
            if response is not None:
                kind = subjects.AGENT_FAILED if isinstance(response, AgentFailed) else subjects.AGENT_COMPLETED
                token = (msg.headers or {}).get(CALL_TOKEN, "")
                msg_id = f"{response.msg_id}.{token}"
                headers = {"Nats-Msg-Id": msg_id, CALL_TOKEN: token}
                send = partial(js.publish, kind, encode(response), headers=headers)
                await until(send, not_yet=(TimeoutError, nats.js.errors.Error))  # its stream may be gone for a while
            await msg.ack()
            await asyncio.sleep(0)
    finally:
        # Else NATS would give its last pull the next call, which nobody takes then until `ack_wait` is over.
        await sub.unsubscribe()
