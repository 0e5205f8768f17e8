"""Collects what a model has written so far in one attempt, and tells whether that is all of it."""

import re

import structlog

from fleet.messages import Usage
from workers.llm.failures import AttemptError, malformed, shorten
from workers.llm.reading.digit_odds import DigitOdds
from workers.llm.reading.endings import Ending, ending_of, later
from workers.llm.reading.event import Event
from workers.llm.reading.event_reader import read, read_many
from workers.llm.reading.halves import HALVES, without_halves
from workers.llm.reading.reasoning import ReasoningSplitter, split_reasoning
from workers.llm.reading.sse import DONE
from workers.llm.reading.token_counts import TokenCounts
from workers.llm.refusals import is_page, of_error_object, of_page

log = structlog.get_logger(__name__)

BYTES_PER_TOKEN = 4
MOST_CHARACTERS = 16 * 2**20
"""Of text, thoughts and a refusal together: more than any window holds. What is longer could not be stored."""
MOST_UNREAD, UNREAD_SHOWN = 10_000, 16
"""Events that cannot be read, in one response, and those of them that are kept for the error that shows them."""
_TEXT_FIELDS = re.compile(r'"(?:content|text|delta)"')
_BLANK = re.compile(r"[\s\u00ad\u115f\u1160\u2800\u3164\uffa0\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\x00]*")


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return _BLANK.fullmatch(text) is not None


class StreamedAnswer:
    """Takes the events of one response. `pieces` counts what has come: about tokens, until a server tells."""

    def __init__(self) -> None:
        self._counts: TokenCounts | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.pieces = 0
        self.model: str | None = None
        self.refusal = ""
        self.tool = False
        self.began = False
        """Whether a request has been sent that a model may have worked on."""
        self.prompt_bytes = 0
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._half = ""
        self._by_pieces = False
        """Whether text has come in pieces, which no message after them repeats."""
        self._unread: list[str] = []
        self._splitter = ReasoningSplitter()
        self._odds = DigitOdds()
        self._length = 0
        self._heard = self._not_read = 0
        self._parts: tuple[int, str, str] | None = None

    # --- what has come ----------------------------------------------------------------------------------------------

    @property
    def content(self) -> str:
        """The answer, without thoughts."""
        return self._split()[1]

    def with_expected(self, content: str) -> str:
        """JSON that was written here, with the expected score beside each drawn one, as far as the server told odds."""
        text = "".join(self._text)
        begins = text.rfind(content)
        return content if begins < 0 else self._odds.with_expected(content, begins)

    @property
    def reasoning(self) -> str:
        """What a reasoning model thought, however its server sends it; never a part of its answer."""
        return "".join([*self._thoughts, self._split()[0]])

    @property
    def ending(self) -> Ending:
        """What the finish reason says."""
        return ending_of(self.finish_reason)

    @property
    def finished(self) -> bool:
        """Whether the server gave a reason for the end."""
        return self.finish_reason is not None

    @property
    def counts(self) -> TokenCounts | None:
        """As far as they were told, and can be true."""
        return None if self._counts is None else self._counts.sane(has_text=self.pieces > 0)

    @property
    def tokens(self) -> int:
        """Completion tokens as reported, else as counted here."""
        counted = self.counts.completion if self.counts else None
        return self._counted() if counted is None else counted

    @property
    def usage(self) -> Usage:
        """As reported. What was not reported is null, and counted here as `estimated_tokens`."""
        if not self.began:
            return Usage()
        counts = self.counts or TokenCounts()
        estimated = 0
        if counts.prompt is None:
            estimated += self.prompt_bytes // BYTES_PER_TOKEN
        if counts.completion is None:
            estimated += self._counted()
        return Usage(
            prompt_tokens=counts.prompt,
            completion_tokens=counts.completion,
            cached_tokens=counts.cached,
            estimated_tokens=estimated,
        )

    def _counted(self) -> int:
        characters = sum(map(len, self._text)) + sum(map(len, self._thoughts))
        return max(self.pieces, characters // BYTES_PER_TOKEN)

    # --- what comes -------------------------------------------------------------------------------------------------

    def take(self, data: str) -> str:
        """Applies one event; returns the text it adds to the answer, as far as that is known to be one.

        Raises `AttemptError` for an error, and for an event that cannot be read and held text.
        """
        if data.rstrip() == DONE:
            self.done = True
            return ""
        event = read(data)
        if not event.unread:
            return self._apply(event)
        return "".join([self._apply(each, data) for each in read_many(data)])

    def take_whole(self, text: str, counts: TokenCounts | None, model: str | None) -> None:
        """An answer that was not written token by token."""
        self._text, self._counts, self.model = [text], counts, model
        self.began, self.finish_reason = True, "stop"

    def _apply(self, event: Event, data: str = "") -> str:
        if event.unread:
            begins_as_json = event.broken and data.lstrip()[:1] in ("{", "[")
            may_hold_text = begins_as_json or (_TEXT_FIELDS.search(data) is not None and not is_page(data))
            if may_hold_text and not self.finished:
                raise malformed(f"an event that cannot be read, and may hold text: {shorten(data)}")
            self._not_read += 1
            if self._not_read > MOST_UNREAD:
                raise malformed(f"more than {MOST_UNREAD} events that cannot be read: {shorten(self._unread[0])}")
            if self._not_read <= UNREAD_SHOWN:
                self._unread.append(data[:2000])
            return ""
        if event.error is not None:
            if self.finished:
                log.warning("model.error_after_end", error=shorten(str(event.error)))
                return ""
            raise of_error_object(event.error)
        if event.counts is not None:
            self._counts = event.counts if self._counts is None else self._counts.updated(event.counts)
        self._by_pieces = self._by_pieces or bool(event.text)
        if event.message is not None:
            self._add_message(event, event.message)
        if event.finish_reason is not None:
            self.finish_reason = later(self.finish_reason, shorten(event.finish_reason))
        if event.model:
            self.model = self.model or shorten(event.model)
        self.refusal += event.refusal
        self._heard += len(event.text) + len(event.thought) + len(event.refusal)
        if self._heard > MOST_CHARACTERS:
            raise AttemptError("Truncated", f"more than {MOST_CHARACTERS} characters, without an end", fault="answer")
        self.tool = self.tool or event.tool
        if event.thought:
            self.pieces += 1
            self._thoughts.append(without_halves(event.thought))
        if not event.text:
            return ""
        self.pieces += 1
        text = self._joined(event.text) if self._half or HALVES.search(event.text) else event.text
        if not text:
            return ""
        if event.logprobs is not None:
            self._odds.take(self._length, event.logprobs)
        self._text.append(text)
        self._length += len(text)
        # A server that sends thoughts apart leaves none in the text.
        return text if self._thoughts else self._splitter.feed(text)

    def _add_message(self, event: Event, message: Event) -> None:
        """What a message adds to the pieces that came before: nothing, where a server sends both."""
        is_all, told = False, ""
        if len(message.text) >= self._length + len(event.text):  # else they need not be put together
            told = "".join(self._text) + event.text
            is_all = message.text.startswith(told) and (
                len(message.text) > len(told) or event.finish_reason is not None
            )
        if is_all:
            event.text += message.text[len(told) :]
        elif not self._by_pieces:
            event.text = message.text
        if not self._thoughts and not event.thought:
            event.thought = message.thought
        event.refusal = event.refusal or ("" if self.refusal else message.refusal)
        event.tool = event.tool or message.tool

    def _joined(self, text: str) -> str:
        """Halves of a surrogate pair that were cut between two events, put together; one left over is replaced."""
        text = self._half + text
        self._half = ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _split(self) -> tuple[str, str]:
        if self._parts is None or self._parts[0] != len(self._text):
            text = "".join(self._text)
            thought, answer = ("", text) if self._thoughts else split_reasoning(text)
            self._parts = (len(self._text), thought, answer)
        return self._parts[1:]

    def cut_off(self) -> AttemptError:
        """For a response that ended without a word that it was all."""
        if not self.pieces:
            return AttemptError("EmptyResponse", "the response ended without a word", fault="server")
        text = f"the stream ended after {self.pieces} pieces of text, with no word that it was all"
        return AttemptError("Truncated", text, fault="server")

    def why_not_begun(self) -> AttemptError | None:
        """For a response without anything of a completion in it: what it was instead."""
        if self._text or self._thoughts or self.finished or self.refusal or not self._unread:
            return None
        unread = "\n".join(self._unread)
        return of_page(unread) if is_page(unread) else malformed(f"no completion but {shorten(unread)}")
