import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import AgentCallError
from fleet.messages import Usage
from workers.llm.reading.answer import StreamedAnswer


def chunk(**delta: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


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
        ("see</think>yes", "see", "yes"),
        ("<think>one <think>two</think> three</think>yes", "one <think>two</think> three", "yes"),
        ("<reflection>see</reflection>\nyes", "see", "yes"),
        ("yes\n<analysis>more</analysis>", "", "yes\n<analysis>more</analysis>"),
        ("see</think>\n\nyes", "see", "yes"),
        ("<Think>see</Think>yes", "see", "yes"),
        ("<think time=3>see</think>yes", "see", "yes"),
        ("<seed:think>see</seed:think>yes", "see", "yes"),
        ("◁think▷see◁/think▷yes", "see", "yes"),
        ("<antThinking>see</antThinking>yes", "see", "yes"),
        ("<scratch_pad>see</scratch_pad>\nyes", "see", "yes"),
        ("<chain_of_thought>see</chain_of_thought>yes", "see", "yes"),
        ("Here is my thought process:\nsee\nHere is my response:\nyes", "see", "yes"),
        ("Here are my reasoning steps:\nsee\n[BEGIN FINAL RESPONSE]\nyes\n[END FINAL RESPONSE]", "see", "yes"),
        ('<details type="reasoning" done="true">\nsee\n</details>\nyes', "see", "yes"),
        ("*Thinking...*\n\n> see\n\nyes", "> see", "yes"),
        ("```thinking\nsee\n```\nyes", "see", "yes"),
        ("&lt;think&gt;see&lt;/think&gt;yes", "see", "yes"),
        ("[THINK]see[/THINK]<answer>yes", "see", "yes"),
        ("Here is my thought process: measure, then cut.", "", "Here is my thought process: measure, then cut."),
        ("Use <details> for it.\n<details>\nyes\n</details>", "", "Use <details> for it.\n<details>\nyes\n</details>"),
        ("Hmm, well.\n<think>see</think>\nyes", "Hmm, well.\nsee", "yes"),
        ("<think>one</think>yes\n<think>two</think>\nmore", "one\ntwo", "yes\nmore"),
        ("```\n<think>\nno\n</think>\n```", "", "```\n<think>\nno\n</think>\n```"),
        ('s.split("</think>")', "", 's.split("</think>")'),
        ("analysisWe need it.assistantfinalyes", "We need it.", "yes"),
        (
            "<|channel|>analysis<|message|>see<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>",
            "see",
            "yes",
        ),
    ],
)
@settings(max_examples=25)
@given(data=st.data())
def test_thoughts_in_the_text_are_split_off(data: st.DataObject, said: str, thought: str, answered: str) -> None:
    """However the text comes in pieces, and whether the tag is opened or the template has done so."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)))))
    answer = StreamedAnswer()
    shown = [answer.take(chunk(content=said[low:high])) for low, high in pairwise([0, *cuts, len(said)])]
    assert (answer.reasoning, answer.content) == (thought, answered)
    if said.lstrip().startswith("<think>") and not {"two"} & set(said.replace("<", " ").replace(">", " ").split()):
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
    assert answer.usage == Usage()  # nothing was sent
    answer.began = True
    assert answer.usage == Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=None)
    assert answer.tokens == 3


def test_without_usage_pieces_are_counted() -> None:
    """Tokens are about as many as deltas."""
    answer = StreamedAnswer()
    for text in "abc":
        answer.take(chunk(content=text))
    assert answer.tokens == 3


@pytest.mark.parametrize("data", ['{"id": "chatcmpl-', '{"choices": [{"delta": {"content": "lo', "[1,"])
def test_an_event_that_may_have_held_text_is_not_left_out(data: str) -> None:
    """A text with a hole looks whole."""
    answer = StreamedAnswer()
    answer.take(chunk(content="yes"))
    with pytest.raises(AgentCallError) as raised:
        answer.take(data)
    assert (raised.value.error_type, raised.value.retryable) == ("MalformedResponse", True)


@pytest.mark.parametrize("data", ["", "ping", "{}", '{"type": "ping"}', '{"choices": 3}', '{"choices": [], "x": 1.5}'])
def test_an_event_that_says_nothing_does_no_harm(data: str) -> None:
    """A sign of life, a statistic, an unknown kind."""
    answer = StreamedAnswer()
    answer.take(chunk(content="yes"))
    assert answer.take(data) == ""
    assert answer.content == "yes"


@pytest.mark.parametrize(
    "delta",
    [
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "yes"},
            ]
        },
        {"content": "yes", "reasoning_content": "hm", "tool_calls": []},
        {"content": "yes", "thinking": "hm", "refusal": None, "annotations": {}},
    ],
)
def test_text_and_thoughts_in_parts_are_told_apart(delta: dict[str, Any]) -> None:
    """In whatever form a server sends them."""
    answer = StreamedAnswer()
    answer.take(chunk(**delta))
    assert (answer.reasoning, answer.content) == ("hm", "yes")


def test_halves_of_a_character_are_put_together() -> None:
    """However they were cut; a half that is alone is replaced."""
    answer = StreamedAnswer()
    for half in ("a\\ud83d", "\\ude80b\\ud83d", "c"):
        answer.take('{"choices": [{"delta": {"content": "' + half + '"}}]}')
    assert answer.content == "a🚀b\ufffdc"


def test_events_of_the_messages_api_are_read() -> None:
    """Anthropic's, and vLLM's /v1/messages."""
    answer = StreamedAnswer()
    usage = {"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1}
    for event in (
        {"type": "message_start", "message": {"model": "claude", "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "yes"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ):
        answer.take(json.dumps(event))
    assert (answer.reasoning, answer.content, answer.ending, answer.model) == ("hm", "yes", "whole", "claude")
    assert (answer.counts.prompt, answer.counts.completion, answer.counts.cached) == (12, 9, 7)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("stop", "whole"),
        ("STOP", "whole"),
        ("eos_token", "whole"),
        ("end_turn", "whole"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "filtered"),
        ("abort", "aborted"),
        ("error", "aborted"),
        ("tool_calls", "tool"),
        ("something new", "unknown"),
        ("", "none"),
        (None, "none"),
        ("null", "none"),
    ],
)
def test_only_a_reason_that_says_so_makes_a_text_whole(reason: str | None, ending: str) -> None:
    """By a table; what is not in it does not."""
    answer = StreamedAnswer()
    answer.take(json.dumps({"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": reason}]}))
    assert answer.ending == ending


@pytest.mark.parametrize(
    ("error", "error_type", "retryable"),
    [
        ({"message": "engine died", "code": 500}, "ServerError", True),
        ({"message": "bad", "code": 400}, "BadRequest", False),
        ("just text", "ServerError", True),
        ({"message": "slow down", "code": "429"}, "RateLimited", True),
        ({"message": "bad", "type": "invalid_request_error"}, "BadRequest", False),
        ({"message": "no", "type": "authentication_error"}, "Unauthorized", False),
        ({"error": {"message": "full", "type": "overloaded_error"}}, "ServerError", True),
        ([{"error": {"code": 404, "message": "gone"}}], "NotFound", False),
    ],
)
def test_an_error_object_in_the_stream_is_that_error(error: Any, error_type: str, retryable: bool) -> None:
    """The status 200 was sent before anything went wrong."""
    with pytest.raises(AgentCallError) as raised:
        StreamedAnswer().take(json.dumps({"error": error}))
    assert (raised.value.error_type, raised.value.retryable) == (error_type, retryable)
