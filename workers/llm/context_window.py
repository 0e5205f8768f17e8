"""How much of the context window is left for the answer. A prompt is never cut.

The estimate: one token for four bytes of UTF-8, and 8 for each message. It is right for English and too small for code
and other scripts, by at most about two; so below half of the window it decides, above the server is asked.
"""

from collections.abc import Iterable

from fleet.errors import AgentCallError
from fleet.messages import ChatMessage

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 8
SAFETY = 2
MIN_ANSWER_TOKENS = 16


def estimate_tokens(messages: Iterable[ChatMessage]) -> int:
    """Tokens of a prompt, by the rule above."""
    return sum(TOKENS_PER_MESSAGE + -(-len(m.content.encode()) // BYTES_PER_TOKEN) for m in messages)


def surely_fits(estimate: int, max_tokens: int, window: int) -> bool:
    """Whether there is room even if the estimate is far too small."""
    return estimate * SAFETY + max_tokens <= window


def answer_tokens(prompt_tokens: int, max_tokens: int, window: int, *, setting: str) -> int:
    """`max_tokens`, or what the prompt leaves. Raises `AgentCallError` (ContextOverflow) below `MIN_ANSWER_TOKENS`."""
    left = window - prompt_tokens
    # A profile may ask for less than the minimum: then that is enough.
    if left >= min(MIN_ANSWER_TOKENS, max_tokens):
        return min(max_tokens, left)
    raise AgentCallError(
        "ContextOverflow",
        f"the prompt has {prompt_tokens} tokens and leaves {max(left, 0)} of the window of {window} "
        f"(at least {MIN_ANSWER_TOKENS} are needed for an answer): {setting}, or deliberate with fewer agents",
        retryable=False,
    )
