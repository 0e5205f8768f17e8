"""More answers as servers, gateways and broken links send them: OpenAI, Azure, Anthropic, Mistral, Gemini, Ollama …

The answer is used whole and at once, or not at all: a text that lacks a piece is never taken for one.
"""

import json
import zlib
from typing import Any

import pytest

from fleet.messages import AgentCompleted, AgentFailed, encode
from fleet.model_servers import Kind
from tests.contract.model_servers.test_streams import DONE, ONE, STOP, TWO, call, chunk, events, response
from tests.support.workers.raw_server import raw_server

STREAM = events(ONE, TWO, STOP, DONE)
BYTES = STREAM.encode()
TEXT = "First second."


def body(value: Any, status: str = "200 OK") -> bytes:
    return response(json.dumps(value), "application/json", status)


def whole(**more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop", **more}]}


def chunked(*parts: bytes, is_ended: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + framed + (b"0\r\n\r\n" if is_ended else b"")


def encoded(name: str, data: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def choice(**more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, **more}]})


def messages_api(stop_reason: str = "end_turn", *between: dict[str, Any]) -> str:
    """As Anthropic streams it, with thoughts."""
    usage = {"input_tokens": 12, "cache_read_input_tokens": 4, "output_tokens": 1}
    blocks = [{"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""}]

    def delta(index: int, **what: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": what}

    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"type": "message", "model": "claude", "content": [], "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": blocks[0]},
        {"type": "ping"},
        delta(0, type="thinking_delta", thinking="Hmm."),
        delta(0, type="signature_delta", signature="EqQB"),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": blocks[1]},
        delta(1, type="text_delta", text="First "),
        *between,
        delta(1, type="text_delta", text="second."),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in told)


OLLAMA = (
    {"model": "m", "message": {"role": "assistant", "content": "First "}, "done": False},
    {"model": "m", "message": {"role": "assistant", "content": "second."}, "done": False},
    {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
)
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]}
OTHER = json.dumps({"choices": [{"index": 1, "delta": {"content": "Other"}, "finish_reason": "length"}]})
FILTERS = {"hate": {"filtered": False, "severity": "safe"}}
AZURE = events(
    json.dumps({"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": FILTERS}]}),
    choice(delta={"role": "assistant", "content": "", "refusal": None}, content_filter_results={}),
    *(ONE, TWO, choice(delta={}, finish_reason="stop", content_filter_results=FILTERS), DONE),
)

SPREAD = "".join(f"data: {line}\n" for line in json.dumps(json.loads(ONE), indent=1).split("\n")) + "\n"

WHOLE: dict[str, tuple[bytes, Kind]] = {
    "a byte order mark": (response("\ufeff" + STREAM), "vllm"),
    "a byte order mark before JSON": (response("\ufeff" + json.dumps(whole()), "application/json"), "vllm"),
    "a byte a chunk": (chunked(*(BYTES[at : at + 1] for at in range(len(BYTES)))), "vllm"),
    "no space after the colon": (response(STREAM.replace("data: ", "data:")), "vllm"),
    "framed twice": (response(STREAM.replace("data: ", "data: data: ")), "litellm"),
    "one event on many lines": (response(SPREAD + events(TWO, STOP, DONE)), "vllm"),
    "comments and ids in an event": (
        response(f"event: message\n: hi\nid: 7\nretry: 10\ndata: {ONE}\n\n" + events(TWO, STOP, DONE)),
        "openai",
    ),
    "spaces at line ends": (response(STREAM.replace("\n\n", " \n\n")), "other"),
    "lines of spaces between": (response(STREAM.replace("\n\n", "\n \n")), "other"),
    "blank lines before": (response("\n\n\n" + STREAM), "other"),
    "spaces around the end mark": (response(events(ONE, TWO, STOP) + "data:   [DONE]  \n\n"), "other"),
    "more after the end mark": (response(STREAM + "\x00garbage\n\n" + events(ONE)), "other"),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response(STREAM), "openai"),
    "deflate": (encoded("deflate", zlib.compress(BYTES)), "openai"),
    "a large header": (response(STREAM).replace(b"\r\n", b"\r\nX-Policy: " + b"x" * 12_000 + b"\r\n", 1), "other"),
    "a proxy's status": (response(STREAM, status="203 Non-Authoritative Information"), "other"),
    "no reason phrase": (response(STREAM).replace(b"200 OK", b"200"), "other"),
    "the messages API": (response(messages_api()), "anthropic"),
    "the messages API, a stop sequence": (response(messages_api("stop_sequence")), "anthropic"),
    "a message in blocks": (
        body({"type": "message", "content": [THINKING, {"type": "text", "text": TEXT}], "stop_reason": "end_turn"}),
        "anthropic",
    ),
    "Ollama's own API": (response("\n".join(map(json.dumps, OLLAMA)) + "\n", "application/x-ndjson"), "ollama"),
    "Azure's filters": (response(AZURE), "azure"),
    "Mistral's thoughts": (response(events(chunk({"content": [THINKING]}), ONE, TWO, STOP, DONE)), "other"),
    "another choice": (response(events(ONE, OTHER, TWO, STOP, DONE)), "openai"),
    "a delta that is null": (response(events(choice(delta=None), '{"choices": [{}]}', ONE, TWO, STOP, DONE)), "vllm"),
    "a token as stop reason": (
        response(events(ONE, TWO, choice(delta={"content": ""}, finish_reason="stop", stop_reason=151645), DONE)),
        "vllm",
    ),
    "a reason in an object": (response(events(ONE, TWO, choice(delta={}, finish_reason={"type": "stop"}))), "sglang"),
    "a statistic that is no number": (
        response(events(ONE.replace('"index": 0', '"logprobs": NaN, "index": 0'), TWO, STOP, DONE)),
        "sglang",
    ),
    "huge numbers": (response(events(ONE[:-1] + f', "created": 1e999, "x": {10**40}}}', TWO, STOP, DONE)), "other"),
    "keys twice": (response(events(f'{{"choices": [], {ONE[1:]}', TWO, STOP, DONE)), "other"),
    "the older completions": (
        response(events(choice(text="First "), choice(text="second.", finish_reason="stop"), DONE)),
        "llamacpp",
    ),
    "a choice without a list": (
        response(events(json.dumps({"choices": {"index": 0, "delta": {"content": "First "}}}), TWO, STOP, DONE)),
        "other",
    ),
    "an index in quotes": (response(events(ONE.replace('"index": 0', '"index": "0"'), TWO, STOP, DONE)), "other"),
    "a body in a list": (body([whole()]), "other"),
    "a body in an envelope": (body({"code": 0, "msg": "success", "data": whole()}), "other"),
    "a body in a response": (body({"response": whole()}), "litellm"),
    "a body with parts": (body(whole(message={"content": [{"type": "text", "text": TEXT}]})), "other"),
    "a body with line ends": (
        response(json.dumps(whole(), indent=2).replace("\n", "\r\n"), "application/json"),
        "other",
    ),
    "errors that are none": (
        response(
            events(json.dumps({**json.loads(ONE), "error": ""}), TWO, json.dumps({**json.loads(STOP), "error": {}}))
        ),
        "other",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer_is_used_at_once(name: str) -> None:
    """Whole, and by one request."""
    sent, kind = WHOLE[name]
    async with raw_server(sent) as server:
        answer = await call(server, kind=kind)
    assert isinstance(answer, AgentCompleted), answer
    assert answer.proposal is not None
    assert (answer.proposal.content, answer.proposal.truncated, server.requests) == (TEXT, False, 1)


@pytest.mark.parametrize(
    "sent",
    [f"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{STREAM}".encode(), chunked(BYTES, is_ended=False)],
)
async def test_a_link_that_breaks_after_the_end_costs_nothing(sent: bytes) -> None:
    """The end was told."""
    async with raw_server(sent, "cut") as server:
        answer = await call(server)
    assert isinstance(answer, AgentCompleted), answer
    assert server.requests == 1


GEMINI = json.dumps({"candidates": [{"content": {"parts": [{"text": "First "}]}, "finishReason": "STOP"}]})
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
TOO_LONG = "prompt is too long: 210000 tokens > 200000 maximum"

FAILS: dict[str, tuple[bytes, Kind, str, str]] = {
    "a piece that no event holds": (
        response(f"dаta: {ONE}\n\n" + events(TWO, STOP, DONE)),
        "other",
        "MalformedResponse",
        "may hold text",
    ),
    "a piece in an unknown form": (
        response(events(json.dumps({"chunk": {"content": "First "}}), TWO, STOP, DONE)),
        "other",
        "MalformedResponse",
        "may hold text",
    ),
    "another API": (response(events(GEMINI)), "other", "MalformedResponse", "candidates"),
    "the messages API, cut": (response(messages_api("max_tokens")), "anthropic", "Truncated", "max_tokens"),
    "the messages API, paused": (response(messages_api("pause_turn")), "anthropic", "Truncated", "pause_turn"),
    "the messages API, refused": (response(messages_api("refusal")), "anthropic", "Refused", "refusal"),
    "the messages API, no end": (
        response(messages_api().split("event: message_delta")[0]),
        "anthropic",
        "Truncated",
        "no word",
    ),
    "the messages API, too long": (
        body({"type": "error", "error": {"type": "invalid_request_error", "message": TOO_LONG}}, "400 X"),
        "anthropic",
        "ContextOverflow",
        "210000",
    ),
    "the messages API, no key": (
        body({"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}, "401 X"),
        "anthropic",
        "Unauthorized",
        "x-api-key",
    ),
    "Bedrock's overflow": (
        body({"message": "Input is too long for requested model."}, "400 X"),
        "litellm",
        "ContextOverflow",
        "too long",
    ),
    "no money": (body({"error": {"message": "Insufficient Balance"}}, "402 X"), "other", "Unauthorized", "Balance"),
    "vLLM's older errors": (
        body({"object": "error", "message": "The model `x` does not exist.", "code": 404}, "404 X"),
        "vllm",
        "NotFound",
        "does not exist",
    ),
    "an error that is a word": (
        body({"error": "model 'x' not found, try pulling it first"}, "404 X"),
        "ollama",
        "NotFound",
        "pulling",
    ),
    "an error that is a word, in the stream": (
        response(events(ONE, '{"error": "llama runner process has terminated"}')),
        "ollama",
        "ServerError",
        "llama runner",
    ),
    "an error beside a piece": (
        response(events(ONE, json.dumps({**json.loads(TWO), "error": {"message": "engine died", "code": 500}}))),
        "vllm",
        "ServerError",
        "engine died",
    ),
    "XML": (
        response("<Error><Code>AccessDenied</Code></Error>", "application/xml", "403 X"),
        "other",
        "Unauthorized",
        "A",
    ),
    "a gateway's words": (response("upstream timeout", "text/plain", "504 X"), "other", "ServerError", "upstream"),
    "a gateway's page": (
        response("<!DOCTYPE html><html><title>524: A timeout occurred</title></html>", "text/html", "524 X"),
        "other",
        "ServerError",
        "524",
    ),
    "no compression where it is said": (encoded("gzip", BYTES), "other", "ConnectionLost", "middle"),
    "half of a body": (response(json.dumps(whole())[:40], "application/json"), "other", "MalformedResponse", "choices"),
    "a body without a reason": (
        body({"choices": [{"message": {"content": TEXT}}]}),
        "other",
        "Truncated",
        "no word",
    ),
    "a body that was cut": (body(whole(finish_reason="length")), "other", "Truncated", "length"),
    "nothing but thoughts": (
        response(events(chunk({"reasoning_content": "Hmm."}), STOP, DONE)),
        "vllm",
        "EmptyResponse",
        "reasoning",
    ),
    "a refusal in a body": (
        body(whole(message={"content": None, "refusal": "I can't help."})),
        "openai",
        "Refused",
        "I can't help.",
    ),
    "the end of another choice": (
        response(events(ONE, json.dumps({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}), DONE)),
        "openai",
        "Truncated",
        "no word",
    ),
    "half a character as the reason": (
        response(json.dumps(whole(finish_reason="\ud83d")), "application/json"),
        "other",
        "Truncated",
        "\ufffd",
    ),
    "half a character in an error": (
        body({"error": {"message": "no \ud83d", "\ud83d": 1}}),
        "other",
        "ServerError",
        "no",
    ),
    "half a character in a refusal": (
        body(whole(message={"content": None, "refusal": "no \ud83d"})),
        "openai",
        "Refused",
        "\ufffd",
    ),
    "a body that is nested without end": (
        response('{"choices": [{"message": {"content": ' + "[" * 5000, "application/json"),
        "other",
        "MalformedResponse",
        "",
    ),
    "an envelope with an error": (body({"code": 1301, "msg": "sensitive words"}), "other", "ServerError", "sensitive"),
}


@pytest.mark.parametrize("name", FAILS)
async def test_what_is_no_whole_answer_is_none(name: str) -> None:
    """And is named."""
    sent, kind, error_type, says = FAILS[name]
    async with raw_server(sent) as server:
        answer = await call(server, kind=kind)
    assert isinstance(answer, AgentFailed), answer
    assert (answer.error_type, says in answer.error) == (error_type, True), answer.error
    assert encode(answer)


async def test_a_model_that_is_named_by_half_a_character_answers_all_the_same() -> None:
    """What is sent on is UTF-8."""
    async with raw_server(body({**whole(), "model": "m\ud83d"})) as server:
        answer = await call(server)
    assert isinstance(answer, AgentCompleted), answer
    assert answer.model == "m\ufffd"
    assert encode(answer)


async def test_a_server_that_is_overloaded_in_the_midst_is_asked_again() -> None:
    """Until the deadline; the error says why."""
    async with raw_server(response(messages_api("end_turn", OVERLOADED))) as server:
        answer = await call(server, kind="anthropic", deadline_s=2.0)
    assert isinstance(answer, AgentFailed), answer
    assert "Overloaded" in answer.error
    assert server.requests > 1
