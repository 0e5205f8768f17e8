"""Judges an attempt that has ended: a whole answer, one that may be cut, or an error with its name."""

from fleet.errors import AgentCallError
from workers.llm.attempt import Attempt, Check
from workers.llm.failures import AttemptError
from workers.llm.reading.answer import is_blank
from workers.llm.requests import ModelRequest
from workers.llm.servers import context_window as window


async def judge(attempt: Attempt, request: ModelRequest, check: Check) -> None:
    """Whether what was heard is a whole answer, and what `check` says of it. Raises `AttemptError`.

    Sets `content`, `checked` and `truncated` of the attempt.
    """
    assert attempt.route is not None
    heard = attempt.heard
    if (error := heard.why_not_begun()) is not None:
        raise error
    told = heard.counts.prompt if heard.counts else None
    if told and window.is_cut(request.messages, told):
        raise AttemptError(
            "PromptTruncated",
            f"the server counted {told} tokens of a prompt of {heard.prompt_bytes} characters: it has cut it to its "
            "window; raise the server's (Ollama: num_ctx), or set context_window so that the prompt is refused",
            fault="endpoint",
        )
    content = heard.content
    if request.answer_schema is not None and is_blank(content) and heard.reasoning:
        content = await _json_among_thoughts(heard.reasoning, check) or content
    if heard.refusal and is_blank(content):
        raise AttemptError("Refused", f"the model refused: {heard.refusal}", fault="answer")
    _judge_end(attempt, request, content)
    attempt.content = content
    try:
        attempt.checked = await check(content)
    except AgentCallError as problem:
        if not attempt.truncated:
            raise
        text = f"{problem.error} (cut off at max_tokens {attempt.max_tokens})"
        raise AttemptError("Truncated", text, fault="answer", retryable=False) from None


def _judge_end(attempt: Attempt, request: ModelRequest, content: str) -> None:
    """Raises `AttemptError` unless the text is whole, or may be cut."""
    assert attempt.route is not None
    heard = attempt.heard
    empty = is_blank(content)
    reason = f"finish_reason {heard.finish_reason}"
    thought = f", after {len(heard.reasoning)} characters of reasoning" if heard.reasoning else ""
    match heard.ending:
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
        case "none" if heard.done and attempt.route.endpoint.config.ends_without_reason:
            if empty:
                raise AttemptError("EmptyResponse", f"no text{thought}", fault="answer", retryable=True)
            return
        case "none":
            error = heard.cut_off()
        case "unknown":
            error = AttemptError("Truncated", f"no known end of a whole text ({reason})", fault="server")
    if empty or not request.accept_truncated or request.answer_schema is not None or heard.ending == "refused":
        raise error
    attempt.truncated = True


async def _json_among_thoughts(reasoning: str, check: Check) -> str | None:
    """vLLM has put answers by schema among the thoughts: what is valid there is the answer."""
    try:
        await check(reasoning)
    except AgentCallError:
        return None
    return reasoning
