"""Defines the outcome of a call: an answer, or that it gave up; and who is notified while it runs."""

from typing import Any, Protocol

from msgspec import Struct

from fleet.errors import AgentCallError
from fleet.messages import CallFacts
from workers.llm.attempt import TextSink
from workers.llm.spending import Spending


class Answer(Struct, frozen=True, kw_only=True):
    """What the model wrote in its successful attempt. `spent` is what all attempts used, `tokens` of this one.

    `model`: the one that answered. `notes`: what was done otherwise than asked for; `stands_in`: another model was.
    """

    content: str
    checked: Any
    reasoning: str | None
    model: str
    tokens: int
    spent: Spending
    attempt: int
    finish_reason: str | None = None
    truncated: bool = False
    endpoint: str = ""
    notes: tuple[str, ...] = ()
    stands_in: bool = False
    facts: CallFacts = CallFacts()


class GaveUp(AgentCallError):
    """No attempt succeeded: the last error, and what all attempts used. `invalid`: a whole text that was not valid."""

    def __init__(
        self,
        error: AgentCallError,
        attempt: int,
        spent: Spending,
        invalid: Answer | None = None,
        facts: CallFacts | None = None,
    ) -> None:
        super().__init__(error.error_type, error.error, retryable=error.retryable)
        self.attempt = attempt
        self.spent = spent
        self.facts = facts or CallFacts()
        self.invalid = invalid


class CallWatcher(TextSink, Protocol):
    """Is told what a call does while it goes on, one attempt after the other. Must not block."""

    def began(self, attempt: int, after: AgentCallError | None) -> None: ...
    def ended(self, tokens: int, error: AgentCallError | None) -> None: ...
