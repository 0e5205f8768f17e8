"""Judges an attempt that has ended: a whole answer, one that may be cut, or an error with its name."""

from contextlib import suppress
from typing import Any

from fleet.errors import AgentCallError
from workers.llm.attempt import Attempt, Check
from workers.llm.failures import AttemptError, shorten
from workers.llm.reading.answer import is_blank
from workers.llm.reading.endings import is_reason
from workers.llm.requests import ModelRequest
from workers.llm.servers import context_window as window


async def judge(attempt: Attempt, request: ModelRequest, check: Check) -> None:
    """Whether what was heard is a whole answer, and what `check` says of it. Raises `AttemptError`.

    Sets `content`, `checked` and `truncated` of the attempt.
    """
    assert attempt.route is not None
    streamed = attempt.streamed
    if (error := streamed.why_not_begun()) is not None:
        raise error
    counted = streamed.counts.prompt if streamed.counts else None
    if counted and window.is_cut(request.messages, counted):
        raise AttemptError(
            "PromptTruncated",
            f"the server counted {counted} tokens of a prompt of {streamed.prompt_bytes} characters: it has cut it to "
            "its window; raise the server's (Ollama: num_ctx), or set context_window so that the prompt is refused",
            fault="endpoint",
        )
    content = streamed.content
    if request.answer_schema is not None and is_blank(content) and streamed.reasoning:
        content = await _json_among_thoughts(streamed.reasoning, check) or content
    if is_reason(streamed.refusal):
        after = "" if is_blank(content) else f", after {len(content)} characters of text"
        raise AttemptError("Refused", f"the model refused{after}: {shorten(streamed.refusal)}", fault="answer")
    _judge_end(attempt, request, content)
    attempt.content = content
    try:
        attempt.checked = await _checked(attempt, request, check)
    except AgentCallError as problem:
        if not attempt.truncated:
            raise
        text = f"{problem.error} (cut off at max_tokens {attempt.max_tokens})"
        raise AttemptError("Truncated", text, fault="answer", retryable=False) from None


async def _checked(attempt: Attempt, request: ModelRequest, check: Check) -> Any:
    """With the scores that the model expects, where its server tells odds; if that cannot be read, as it is."""
    content = attempt.content
    if request.asks_for_odds and (expected := attempt.streamed.with_expected(content)) != content:
        with suppress(AgentCallError):  # What is repeated has other odds each time, and would contradict itself.
            return await check(expected)
    return await check(content)


def _judge_end(attempt: Attempt, request: ModelRequest, content: str) -> None:
    """Raises `AttemptError` unless the text is whole, or may be cut."""
    assert attempt.route is not None
    streamed = attempt.streamed
    empty = is_blank(content)
    reason = f"finish_reason {streamed.finish_reason}"
    thought = f", after {len(streamed.reasoning)} characters of reasoning" if streamed.reasoning else ""
    match streamed.ending:
        case "whole":
            if empty:
                raise AttemptError("EmptyResponse", f"no text ({reason}){thought}", fault="answer", retryable=True)
            return
        case "length":
            what = "no text but reasoning: it was" if empty and thought else "the text was"
            text = f"{what} cut off at max_tokens {attempt.max_tokens} ({reason}){thought if empty else ''}"
            error = AttemptError("Truncated", text, fault="answer")
        case "filtered":
            error = AttemptError("ContentFiltered", f"a filter ended the text ({reason})", fault="answer")
        case "refused":
            error = AttemptError("Refused", f"the model refused ({reason}): {content[:200]}", fault="answer")
        case "tool":
            text = f"the model called a tool in place of an answer ({reason})"
            error = AttemptError("Truncated" if not empty else "EmptyResponse", text, fault="answer", retryable=True)
        case "aborted":
            error = AttemptError("Truncated", f"the server gave the text up ({reason})", fault="server")
        case "none" if streamed.done and attempt.route.endpoint.config.ends_without_reason:
            if empty:
                raise AttemptError("EmptyResponse", f"no text{thought}", fault="answer", retryable=True)
            return
        case "none":
            error = streamed.cut_off()
        case "unknown":
            error = AttemptError("Truncated", f"no known end of a whole text ({reason})", fault="server")
    if empty or not request.accept_truncated or request.answer_schema is not None or streamed.ending == "refused":
        raise error
    attempt.truncated = True


async def _json_among_thoughts(reasoning: str, check: Check) -> str | None:
    """vLLM has put answers by schema among the thoughts: what is valid there is the answer."""
    try:
        await check(reasoning)
    except AgentCallError:
        return None
    return reasoning
