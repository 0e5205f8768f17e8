from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.llm.reading.sse import SseDecoder

STREAM = 'data: {"a": "grüß"}\n\n: ping\ndata: two\ndata: lines\n\nevent: x\ndata:tight\n\ndata: [DONE]\n\n'
EVENTS = ['{"a": "grüß"}', "two\nlines", "tight", "[DONE]"]


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


def test_events_parted_by_one_line_end_are_two() -> None:
    """Old relays write so."""
    decoder = SseDecoder()
    assert decoder.feed(b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n') == ['{"a": 1}', '{"b": 2}', "[DONE]"]


def test_what_is_no_event_is_told_in_its_place() -> None:
    """A body of JSON, or an error that was written between events: before the next one, or at the end."""
    decoder = SseDecoder()
    assert decoder.feed(b'{"error":\n "no room"}\n\ndata: x\n\n') == ['{"error":\n "no room"}', "x"]
    assert decoder.feed(b'{"a":\n 1}\n') == []
    assert decoder.finish() == ['{"a":\n 1}']


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    """Nor of a body."""
    assert SseDecoder().feed(b"\xef\xbb\xbfdata: x\n\n") == ["x"]
    decoder = SseDecoder()
    assert decoder.feed(b'\xef\xbb\xbf{"a": 1}') == []
    assert decoder.finish() == ['{"a": 1}']


def test_an_event_named_error_is_an_error() -> None:
    """Whether its data are JSON or words."""
    decoder = SseDecoder()
    assert decoder.feed(b'event: error\ndata: {"code": 429}\n\n') == ['{"error": {"code": 429}}']
    assert decoder.feed(b"event: error\ndata: no room\n\ndata: x\n\n") == ['{"error": "no room"}', "x"]
