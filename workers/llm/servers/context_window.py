"""Computes the room for the answer in the context window, and whether a server has cut the prompt. Nothing is cut here.

The estimate: one token for four bytes of UTF-8, and 8 for each message. It is right for English, too small for code and
other scripts (by at most about two), and too large for what is mostly blank space. So below half of the window it
decides; above, the server is asked, or has the last word.
"""

import re
from collections.abc import Iterable

from fleet.messages import ChatMessage
from workers.llm.failures import AttemptError

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 8
SAFETY = 2
MIN_ANSWER_TOKENS = 16

FEWEST_CUT_TOKENS = 1000
"""No server has a window so small that less would be a sign of a cut prompt."""
MOST_CHARACTERS_PER_TOKEN = 16.0
NEAR_A_WINDOW_CHARACTERS_PER_TOKEN = 5.5
NEAR_TOKENS = 64
_RUNS = re.compile(r"(.)\1{3,}", re.DOTALL)


def estimate_tokens(messages: Iterable[ChatMessage]) -> int:
    """Tokens of a prompt, by the rule above."""
    return sum(TOKENS_PER_MESSAGE + -(-len(m.content.encode()) // BYTES_PER_TOKEN) for m in messages)


def surely_fits(estimate: int, max_tokens: int, window: int) -> bool:
    """Whether there is room even if the estimate is far too small."""
    return estimate * SAFETY + max_tokens <= window


def surely_overflows(estimate: int, window: int) -> bool:
    """Whether there is none even if the estimate is far too large."""
    return estimate > SAFETY * window


def room_by_estimate(estimate: int, max_tokens: int, window: int) -> int:
    """`max_tokens` to try, where nobody counts: what the estimate leaves, or a part of the window if it leaves none."""
    left = window - estimate
    return min(max_tokens, left if left >= MIN_ANSWER_TOKENS else max(MIN_ANSWER_TOKENS, window // 8))


def answer_tokens(prompt_tokens: int, max_tokens: int, window: int, *, setting: str, about: str = "") -> int:
    """`max_tokens`, or what the prompt leaves. Raises `AttemptError` (ContextOverflow) below `MIN_ANSWER_TOKENS`.

    `about`: what to say where the number is an estimate.
    """
    left = window - prompt_tokens
    # A profile may ask for less than the minimum: then that is enough.
    if left >= min(MIN_ANSWER_TOKENS, max_tokens):
        return min(max_tokens, left)
    raise AttemptError(
        "ContextOverflow",
        f"the prompt has {about}{prompt_tokens} tokens and leaves {max(left, 0)} of the window of {window} "
        f"(at least {MIN_ANSWER_TOKENS} are needed for an answer): {setting}, or deliberate with fewer agents",
        fault="endpoint",
        begun=False,
    )


def is_cut(messages: Iterable[ChatMessage], reported_tokens: int) -> bool:
    """Whether a server counted so few tokens that it cannot have read the whole prompt.

    It is sure where a token would stand for more characters than any tokenizer makes of text, and where the count is
    just that of a usual window and a token would stand for more than it does in any language. Characters, since one of
    Japanese has three bytes. Runs of one character are not counted: they may be one token.
    """
    if reported_tokens < FEWEST_CUT_TOKENS:
        return False
    size = sum(len(_RUNS.sub(r"\1", message.content)) for message in messages)
    per_token = size / reported_tokens
    if per_token > MOST_CHARACTERS_PER_TOKEN:
        return True
    below = -reported_tokens % 1024
    return min(below, 1024 - below) <= NEAR_TOKENS and per_token > NEAR_A_WINDOW_CHARACTERS_PER_TOKEN
