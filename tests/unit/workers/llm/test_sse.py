import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import AgentCallError
from fleet.messages import Usage
from workers.llm.sse import SseDecoder, StreamedAnswer

STREAM = 'data: {"a": "grüß"}\n\n: ping\ndata: two\ndata: lines\n\nevent: x\ndata:tight\n\ndata: [DONE]\n\n'
EVENTS = ['{"a": "grüß"}', "two\nlines", "tight", "[DONE]"]


def chunk(**delta: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


@given(st.lists(st.integers(0, 120)), st.sampled_from(["\n", "\r\n", "\r"]))
def test_where_a_stream_is_split_and_how_lines_end_does_not_matter(cuts: list[int], line_end: str) -> None:
    """Any split, also within a character or a CRLF, gives the same events."""
    data = STREAM.replace("\n", line_end).encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = SseDecoder()
    found = [event for low, high in pairwise(edges) for event in decoder.feed(data[low:high])]
    assert found + decoder.finish() == EVENTS


def test_a_last_event_without_its_blank_line_is_found_at_the_end() -> None:
    """Some servers close right after [DONE]."""
    decoder = SseDecoder()
    assert decoder.feed(b"data: [DONE]") == []
    assert decoder.finish() == ["[DONE]"]


def test_reasoning_is_kept_apart_from_content() -> None:
    """Neither spelling of a thought becomes part of the answer."""
    answer = StreamedAnswer()
    texts = [
        answer.take(chunk(reasoning_content="hm ")),
        answer.take(chunk(reasoning="so")),
        answer.take(chunk(content="yes")),
    ]
    assert (texts, answer.content, answer.reasoning) == (["", "", "yes"], "yes", "hm so")


@pytest.mark.parametrize(
    ("said", "thought", "answered"),
    [
        ("<think>hm\nso</think>\n\nyes", "hm\nso", "yes"),
        ("\n <think>\nhm\n</think>yes", "hm", "yes"),
        ("hm, so\n</think>\n\nyes", "hm, so", "yes"),
        ("split it at the </think> marker", "", "split it at the </think> marker"),
        ("first\n  </think>\nyes", "first", "yes"),
        ("<think>hm", "hm", ""),
        ("<think></think>yes", "", "yes"),
        ("<think>hm</think>use <think> and </think>", "hm", "use <think> and </think>"),
        ("use <think> and </think>", "", "use <think> and </think>"),
        ("<b>yes</b>\n", "", "<b>yes</b>\n"),
        ("<thi", "", "<thi"),
    ],
)
@given(data=st.data())
def test_thoughts_in_the_text_are_split_off(data: st.DataObject, said: str, thought: str, answered: str) -> None:
    """However the text comes in pieces, and whether the tag is opened or the template has done so."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)))))
    answer = StreamedAnswer()
    shown = [answer.take(chunk(content=said[low:high])) for low, high in pairwise([0, *cuts, len(said)])]
    assert (answer.reasoning, answer.content) == (thought, answered)
    if said.lstrip().startswith("<think>"):
        assert "".join(shown) == answered


def test_text_of_a_server_that_sends_thoughts_apart_is_left_as_it_is() -> None:
    """A closing tag in it is the answer's."""
    answer = StreamedAnswer()
    answer.take(chunk(reasoning_content="hm"))
    answer.take(chunk(content="write </think> last"))
    assert (answer.reasoning, answer.content) == ("hm", "write </think> last")


def test_a_usage_chunk_without_choices_counts_tokens() -> None:
    """The last chunk of `include_usage` has empty choices."""
    answer = StreamedAnswer()
    answer.take(chunk(content="yes"))
    answer.take('{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": null}}')
    assert answer.usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert answer.tokens == 3


def test_without_usage_pieces_are_counted() -> None:
    """Tokens are about as many as deltas."""
    answer = StreamedAnswer()
    for text in "abc":
        answer.take(chunk(content=text))
    assert answer.tokens == 3


def test_a_stream_is_complete_with_a_finish_reason_or_done() -> None:
    """Either is enough; neither is a truncation."""
    said, finished, done = StreamedAnswer(), StreamedAnswer(), StreamedAnswer()
    said.take(chunk(content="x"))
    finished.take('{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
    done.take("[DONE]")
    assert [said.complete, finished.complete, done.complete] == [False, True, True]


@pytest.mark.parametrize("data", ['{"id": "chatcmpl-', "[1]", '{"choices": 3}'])
def test_what_is_no_chunk_is_malformed(data: str) -> None:
    """Worth another try."""
    with pytest.raises(AgentCallError) as raised:
        StreamedAnswer().take(data)
    assert (raised.value.error_type, raised.value.retryable) == ("MalformedResponse", True)


@pytest.mark.parametrize(
    ("error", "error_type", "retryable"),
    [
        ({"message": "engine died", "code": 500}, "ServerError", True),
        ({"message": "bad", "code": 400}, "BadRequest", False),
        ("just text", "ServerError", True),
    ],
)
def test_an_error_object_in_the_stream_is_that_error(error: Any, error_type: str, retryable: bool) -> None:
    """The status 200 was sent before anything went wrong."""
    with pytest.raises(AgentCallError) as raised:
        StreamedAnswer().take(json.dumps({"error": error}))
    assert (raised.value.error_type, raised.value.retryable) == (error_type, retryable)
