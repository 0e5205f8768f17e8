"""Refusals whose words were in no table: the form that a server takes is found, and what it will not do is named."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from fleet.messages import ChatMessage
from tests.contract.model_servers.test_dialects import SCHEMA, Refusal, openai_error, serving
from tests.support.workers.calls import ask, client, complete
from workers.llm.refusals import of_error_object, of_status

Judge = Callable[[dict[str, Any]], Refusal]


def with_(name: str, words: str) -> Judge:
    return lambda body: (400, openai_error(words)) if name in body else None


def more_than(tokens: int, words: str) -> Judge:
    return lambda body: (400, openai_error(words)) if body["max_tokens"] > tokens else None


def format_of(*known: str, words: str) -> Judge:
    def judge(body: dict[str, Any]) -> Refusal:
        kind = body.get("response_format", {}).get("type")
        return None if kind is None or kind in known else (400, openai_error(words))

    return judge


@pytest.mark.parametrize(
    ("judge", "note"),
    [
        (with_("stream", "Unsupported value: 'stream' does not support true with this model."), "stream "),
        (with_("temperature", "invalid temperature: only 1 is allowed for this model"), "temperature"),
        (with_("seed", "seed is not a valid parameter for this model"), "seed"),
        (with_("seed", "Additional properties are not allowed ('seed' was unexpected)"), "seed"),
        (with_("stream_options", "不支持参数 stream_options"), "stream_options"),
        (format_of("json_object", words="Invalid value: 'json_schema'. Supported values are: 'text'."), "json_object"),
        (format_of("json_object", words="'response_format.type' : not one of ['text', 'json_object']"), "json_object"),
        (format_of(words="response_format.type must be 'text'"), "no response_format"),
        (more_than(300, "max_tokens must be at most 300, got 500"), "lowered to 300"),
        (more_than(300, "max_tokens: 500 exceeds the maximum allowed value of 300"), "lowered to 300"),
        (more_than(300, "too many tokens: max tokens must be less than or equal to 300"), "lowered to 300"),
        (more_than(300, "Invalid max_tokens value, the valid range of max_tokens is [1, 300]"), "lowered to 300"),
        (more_than(300, "Invalid value for max_tokens: must be between 1 and 300"), "lowered to 300"),
    ],
)
async def test_what_a_server_does_not_take_is_left_out(judge: Judge, note: str) -> None:
    """Without an attempt, and it is said."""
    async with serving(judge) as (_, url), client(url, max_attempts=1) as made:
        answer = await complete(made, ask(answer_schema=SCHEMA))
    assert answer.checked == {"verdict": "fine"}
    assert any(note in each for each in answer.notes)


async def test_what_a_server_repeats_of_the_request_teaches_nothing() -> None:
    """FastAPI shows the whole body beside the one field that is wrong."""

    def judge(body: dict[str, Any]) -> Refusal:
        problem = {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": body}
        return (422, {"detail": [problem]}) if "seed" in body else None

    question = "What does a content_filter do with a temperature? Is the context window too long?"
    async with serving(judge) as (server, url), client(url, max_attempts=1) as made:
        request = ask(answer_schema=SCHEMA, messages=(ChatMessage(role="user", content=question),))
        answer = await complete(made, request)
    assert answer.notes == ("seed was not sent",)
    assert "temperature" in server.bodies[-1]


@pytest.mark.parametrize(
    "words",
    [
        "'max_tokens' is too large: {asked}. This model's maximum context length is 8192 tokens and your request has "
        "5000 input tokens ({asked} > 8192 - 5000).",
        "maximum context length is 8192 tokens. However, you requested about 9096 tokens (5000 of text input, {asked} "
        "in the output).",
        "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of "
        "9096 tokens: 5000 tokens from the input messages and {asked} tokens for the completion.",
        "Your request exceeded model token limit: 8192, prompt contains 5000 tokens, to be generated {asked}",
    ],
)
async def test_the_room_that_is_left_is_found_in_the_words(words: str) -> None:
    """Even where an estimate by the length of the prompt is far too small."""

    def judge(body: dict[str, Any]) -> Refusal:
        asked = body["max_tokens"]
        return (400, openai_error(words.format(asked=asked))) if asked > 8192 - 5000 else None

    dense = (ChatMessage(role="user", content="!? " * 1000),)
    async with serving(judge) as (server, url), client(url, max_attempts=1) as made:
        await complete(made, ask(messages=dense, max_tokens=4096))
    assert server.bodies[-1]["max_tokens"] == 8192 - 5000


@pytest.mark.parametrize(
    ("error_type", "status", "body"),
    [
        ("ContextOverflow", 400, "Range of input length should be [1, 30720]"),
        ("ContextOverflow", 400, "Prompt exceeds max length"),
        ("ContextOverflow", 400, "输入内容超过模型最大上下文长度限制"),
        ("ContextOverflow", 422, "Input validation error: `inputs` must have less than 4095 tokens. Given: 9000"),
        ("ContextOverflow", 400, "Prompt is longer than the model's max position embeddings (4096)"),
        ("ContentFiltered", 400, {"error": {"code": "data_inspection_failed", "message": "Input refused."}}),
        ("ContentFiltered", 400, {"error": {"message": "Please modify your prompt.", "code": "content_filter"}}),
        ("ContentFiltered", 400, "Content Exists Risk"),
        ("ContentFiltered", 403, "Your input was flagged"),
        ("RateLimited", 403, "You have exceeded a secondary rate limit."),
        ("RateLimited", 400, {"__type": "ThrottlingException", "message": "Too many requests"}),
        ("BadRequest", 400, "temperature out of range"),
        ("Unauthorized", 403, "Out of call volume quota."),
        ("Unauthorized", 400, "API key not valid. Please pass a valid API key."),  # Gemini
        ("Unauthorized", 400, "Incorrect API key provided: sk-***. You can obtain one from the console."),  # xAI
        ("Unauthorized", 400, "api_key is required"),
        ("BadRequest", 400, "the prompt must not speak of keys"),
    ],
)
def test_a_refusal_is_named_for_what_it_is(error_type: str, status: int, body: Any) -> None:
    """By its words, where its status says less."""
    assert of_status(status, body if isinstance(body, str) else json.dumps(body)).error_type == error_type


@pytest.mark.parametrize(("status", "body"), [(500, "Loading model"), (521, ""), (522, ""), (523, "")])
def test_a_server_that_is_not_there_yet_is_waited_for(status: int, body: str) -> None:
    """Nothing has begun."""
    assert not of_status(status, body).begun


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        ("rate limit reached", "RateLimited"),
        ({"message": "insufficient balance"}, "Unauthorized"),
        ({"message": "invalid api key"}, "Unauthorized"),
        ({"message": "No connected db.", "type": "no_db_connection", "param": None, "code": "400"}, "Unauthorized"),
        ({"message": "llama runner has terminated"}, "ServerError"),
    ],
)
def test_an_error_without_a_number_is_known_by_its_words(error: Any, error_type: str) -> None:
    """In a stream there is no other."""
    assert of_error_object(error).error_type == error_type


def test_a_failure_to_load_is_no_loading() -> None:
    """It would be waited for until the deadline."""
    assert of_status(500, "failed to load model weights").begun
