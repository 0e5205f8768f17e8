"""What a server may send that would leak, grow or freeze: its key, names without end, lines without events."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fleet.event_loop import end
from fleet.messages import AgentCompleted, AgentFailed, encode
from tests.contract.model_servers.test_streams import DONE, ONE, STOP, call, chunk, events, response
from tests.support.workers.raw_server import raw_server
from workers.llm.failures import AttemptError
from workers.llm.reading import sse
from workers.llm.reading.answer import StreamedAnswer
from workers.llm.reading.reasoning import ReasoningSplitter
from workers.llm.reading.sse import SseDecoder
from workers.llm.servers.cards import cards_in

KEY = "sk-not-for-anybodys-eyes"
LONG = "x" * 1_000_000


def said(what: str, text: str) -> str:
    """A whole answer that has this text in one place."""
    delta: dict[str, Any] = {"content": "Fine."}
    facts: dict[str, Any] = {"model": "m"}
    reason = "stop"
    match what:
        case "model":
            facts["model"] = text
        case "finish_reason":
            reason = text
        case "refusal":
            delta = {"refusal": text}
        case "content":
            delta = {"content": f"You sent {text}."}
        case "error":
            return events(json.dumps({"error": {"message": text, "code": 400}}))
    told = json.dumps({**facts, "choices": [{"index": 0, "delta": delta}]})
    return events(
        told, json.dumps({**facts, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}), "[DONE]"
    )


@pytest.mark.parametrize("what", ["model", "finish_reason", "refusal", "content", "error"])
async def test_a_key_that_a_server_repeats_goes_no_further(tmp_path: Path, what: str) -> None:
    """Events and results are for every client."""
    file = tmp_path / "key"
    file.write_text(KEY)
    async with raw_server(response(said(what, KEY))) as server:
        answer = await call(server, key_file=file)
        assert KEY in server.heads[0]
    assert KEY.encode() not in encode(answer)
    assert b"***" in encode(answer)


@pytest.mark.parametrize(("key", "what", "stays"), [
    ("EMPTY", "model", True),
    ("EMPTY", "content", True),
    ("EMPTY", "error", False),
    ("not-needed", "content", True),
    ("1234", "content", True),
    ("sk-secret", "content", False),
    ("hunter2", "content", False),
    ("correcthorsebattery", "content", False),
])  # fmt: skip
async def test_a_key_that_may_be_a_word_is_left_in_texts_and_names(
    tmp_path: Path, key: str, what: str, stays: bool
) -> None:
    """Servers without keys are given `EMPTY`, or the like: no text may be changed for that. Errors may."""
    file = tmp_path / "key"
    file.write_text(key)
    async with raw_server(response(said(what, key))) as server:
        answer = await call(server, key_file=file)
    assert (key.encode() in encode(answer), b"***" in encode(answer)) == (stays, not stays)


@pytest.mark.parametrize("what", ["model", "finish_reason", "refusal", "error"])
async def test_what_is_no_text_is_bounded(what: str) -> None:
    """It stands in states and events several times: a state that is too long could not be read any more."""
    async with raw_server(response(said(what, LONG))) as server:
        assert len(encode(await call(server))) < 10_000


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
async def test_a_text_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Whatever its pieces are called."""
    monkeypatch.setattr("workers.llm.reading.answer.MOST_CHARACTERS", 100)
    piece = json.dumps({"choices": [{"index": 0, "delta": {field: "x" * 20}}]})
    async with raw_server(response(events(*[piece] * 10))) as server:
        answer = await call(server)
    assert isinstance(answer, AgentFailed)
    assert answer.error_type in ("Truncated", "Refused")
    assert "more than 100 characters" in answer.error


async def test_a_text_as_long_as_a_window_is_an_answer() -> None:
    async with raw_server(response(events(*[chunk("x" * 100_000)] * 20, chunk("", "stop"), "[DONE]"))) as server:
        answer = await call(server)
    assert isinstance(answer, AgentCompleted)
    assert answer.proposal is not None
    assert len(answer.proposal.content) == 2_000_000


@pytest.mark.parametrize("line", [b"data: x\n", b"x\n"])
def test_lines_that_never_become_an_event_are_bounded(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 10_000)
    decoder = SseDecoder()
    assert decoder.feed(line * 100) == []
    with pytest.raises(AttemptError, match="more than 10000 bytes"):
        decoder.feed(line * 1000)


def test_events_after_one_another_are_not_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 10_000)
    decoder = SseDecoder()
    assert len([event for _ in range(1000) for event in decoder.feed(b"x\ndata: y\n\n")]) == 2000


def test_a_flood_of_short_lines_holds_nobody_up() -> None:
    """All calls of a worker share one event loop: this took a minute once, since each line was counted anew."""
    assert SseDecoder().feed(b"x\n" * 300_000) == []


def test_a_name_without_end_names_no_model() -> None:
    assert [card.id for card in cards_in({"data": [{"id": "m" * 300}, "n" * 300, {"id": "m"}]})] == ["m"]


async def test_events_that_cannot_be_read_are_bounded() -> None:
    """To read each in all known ways takes its time."""
    async with raw_server(response(events(*["ping"] * 11_000))) as server:
        answer = await call(server)
    assert isinstance(answer, AgentFailed)
    assert "events that cannot be read: ping" in answer.error


async def test_other_calls_go_on_while_a_flood_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a worker's calls share one event loop, and a chunk may hold thousands of events."""
    monkeypatch.setattr("workers.llm.reading.response.AT_ONCE_BYTES", 100)
    turns: list[int] = []
    seen = {"pieces": 0}
    take = StreamedAnswer.take

    def counted(self: StreamedAnswer, data: str) -> str:
        seen["pieces"] += 1
        return take(self, data)

    monkeypatch.setattr(StreamedAnswer, "take", counted)

    async def others() -> None:
        while True:
            turns.append(seen["pieces"])
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    async with raw_server(response(events(*[ONE] * 1000, STOP, DONE))) as server:
        await call(server)
    await end(running)
    assert max(later - sooner for sooner, later in pairwise(turns)) < 20


def test_blank_text_without_end_is_taken_in_one_pass() -> None:
    """It took minutes once: all that had come was looked through for each piece."""
    splitter = ReasoningSplitter()
    assert "".join(splitter.feed("   \n") for _ in range(300_000)) == ""
    assert splitter.feed("so") == "   \n" * 300_000 + "so"
