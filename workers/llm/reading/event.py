"""Defines what one event of a stream, or a whole body, adds to an answer."""

from typing import Any

from msgspec import Struct

from workers.llm.reading.token_counts import TokenCounts


class Event(Struct, kw_only=True):
    """What one event adds to an answer. `error`: an error object as it was sent. `unread`: nothing was understood."""

    text: str = ""
    thought: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    counts: TokenCounts | None = None
    model: str | None = None
    error: Any = None
    tool: bool = False
    logprobs: Any = None
    """As they were sent; None: none."""
    unread: bool = False
    broken: bool = False
    """It is not even JSON."""
    message: "Event | None" = None
    """What is told as a message: all of the answer so far, where pieces of it have come before."""
    is_of_another: bool = False
    """It belongs to a choice that nobody asked for."""

    @property
    def adds_nothing(self) -> bool:
        """To an answer, or to what is known of it."""
        parts = (self.text, self.thought, self.refusal, self.finish_reason, self.tool)
        return not any(parts) and self.error is None and self.counts is None and self.message is None
