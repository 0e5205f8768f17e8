"""Makes the spans of one agent call that has ended: `invoke_agent <role>`, and `chat <model>` for each attempt."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from fleet.messages import AgentFailed, AgentRequested, AgentResponse
from fleet.messages.trace_ids import TraceContext
from fleet.observability.spans import Span
from workers.llm.attempt import Attempt, chat_context
from workers.llm.requests import ModelRequest
from workers.llm.tally import LATE

STOPPED = "Stopped"
"""The task has ended meanwhile, or the worker has: the call was left."""
PROVIDERS = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "anthropic": "anthropic",
}
"""By the kind of an endpoint, as the conventions name them; others by their kind."""
_SHOWN_MESSAGES = 50


def call_context(parent: TraceContext, request: AgentRequested, delivery: int) -> TraceContext:
    """Of `invoke_agent`: each delivery of a call is a span of its own. `parent`: the phase's."""
    return parent.child(request.msg_id, delivery)


def invoke_agent(
    context: TraceContext,
    parent: TraceContext,
    request: AgentRequested,
    delivery: int,
    times_ns: tuple[int, int],
    response: AgentResponse | None,
    error: str | None = None,
) -> Span:
    """`response` None: there is none, `error` says why."""
    usage = response.usage if response is not None else None
    failure = response.error_type if isinstance(response, AgentFailed) else error
    return Span(
        name=f"invoke_agent {request.role}",
        context=context,
        parent=parent.span_id,
        began_ns=times_ns[0],
        ended_ns=times_ns[1],
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": request.agent_id,
            "gen_ai.agent.name": request.role,
            "gen_ai.conversation.id": request.task_id,
            "fleet.task_id": request.task_id,
            "fleet.phase": request.phase,
            "fleet.round": request.round,
            "fleet.question": request.question,
            "fleet.delivery": delivery,
            "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
            "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage else None,
        },
        error=failure,
    )


def chats(
    parent: TraceContext,
    attempts: Sequence[Attempt],
    request: ModelRequest | None,
    now_ns: int,
    *,
    with_content: bool,
) -> list[Span]:
    """One for each attempt. `with_content`: texts are attributes, too."""
    return [_chat(parent, attempt, request, now_ns, with_content) for attempt in attempts]


def _chat(
    parent: TraceContext, attempt: Attempt, request: ModelRequest | None, now_ns: int, with_content: bool
) -> Span:
    assert attempt.route is not None
    endpoint, streamed = attempt.route.endpoint, attempt.streamed
    outcome = attempt.outcome or LATE
    address = urlsplit(endpoint.url)
    usage = streamed.usage
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDERS.get(endpoint.config.kind, endpoint.config.kind),
        "gen_ai.request.model": attempt.model or None,
        "gen_ai.response.model": streamed.model,
        "gen_ai.response.finish_reasons": (streamed.finish_reason,) if streamed.finish_reason else None,
        "gen_ai.request.max_tokens": attempt.max_tokens or None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if streamed.began else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if streamed.began else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if streamed.began else None,
        "server.address": address.hostname,
        "server.port": address.port,
        "fleet.endpoint": endpoint.name,
        "fleet.attempt": attempt.number,
        "fleet.first_token_ms": None if attempt.first_token_s is None else round(attempt.first_token_s * 1000),
    }
    if request is not None:
        attributes["gen_ai.conversation.id"] = request.task_id
        attributes["gen_ai.request.temperature"] = request.temperature
        attributes["gen_ai.request.seed"] = request.seed
    if with_content:
        content = attempt.content or streamed.content
        messages = request.messages[:_SHOWN_MESSAGES] if request is not None else ()
        attributes["gen_ai.input.messages"] = _shown([(message.role, message.content) for message in messages])
        attributes["gen_ai.output.messages"] = _shown([("assistant", content)])
    return Span(
        name=f"chat {attempt.model}".rstrip(),
        context=chat_context(parent, attempt.number),
        parent=parent.span_id,
        began_ns=attempt.began_ns,
        ended_ns=attempt.ended_ns or now_ns,
        kind="client",
        attributes=attributes,
        error=None if outcome == "completed" else outcome,
    )


def _shown(messages: Sequence[tuple[str, str]]) -> str:
    parts = [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in messages]
    return json.dumps(parts, ensure_ascii=False)
