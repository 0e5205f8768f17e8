"""Breaks up the marks that chat templates read as the borders of turns, visibly, in prompts.

A text that is shown must not end the turn that shows it. What is stored and given back stays as it was.
"""

import re

from msgspec import structs

from fleet.messages import ChatMessage

_MARKS = re.compile(
    r"<(?=[|｜][^<>|｜\n]{1,40}[|｜]>)"  # <|im_start|>, <｜User｜>, <|eot_id|>, <|channel|>
    r"|<(?=\|(?:channel|turn|tool|think)>|(?:channel|turn|tool|think)\|>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|SYS|BOS|EOS|gMASK)\])"
    r"|<(?=</?SYS>>|<SYS>>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|sop|start_of_turn|end_of_turn|end_of_utterance)>)"
    r"|<(?=(?:\[\w{2,20}\]|seed:[a-z]{2,20}|extra_id_\d|unused\d+)>)"
    r"|\](?=~[!b]\[|~b\])|<(?=(?:System|Human|Assistant)>)"
)


def broken_up(text: str) -> str:
    """`<|im_end|>` becomes `< |im_end|>`: words, and no token."""
    if "<" not in text and "[" not in text and "]" not in text:
        return text  # A look for three characters is much quicker than one for all marks.
    return _MARKS.sub(lambda match: match[0] + " ", text)


def without_control_tokens(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """The very same messages where none has any."""
    changed = tuple(
        structs.replace(message, content=text) if (text := broken_up(message.content)) != message.content else message
        for message in messages
    )
    return messages if all(one is other for one, other in zip(changed, messages, strict=True)) else changed
