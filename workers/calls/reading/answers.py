"""Turns what a model wrote into the answer of its phase: free text, or reviews that are read as far as they can be."""

import re
from typing import assert_never

from msgspec import Struct

from fleet.messages import AgentRequested, Choice, Critique, Scorecard
from workers.calls.reading.declines import declined
from workers.calls.reading.reviews import Reviews, merged, read_choice, read_reviews, shape_of
from workers.calls.reading.structured import json_text, parse
from workers.llm.failures import invalid

MOST_NAMED = 12
"""So many missing parts are named in a complaint; a model can find the others."""
_TAG = r"<{slash}(?:proposal|critique)(?: [A-P])?(?: [\w-]+)?>"
_OWN_TAGS = re.compile(rf"\s*{_TAG.format(slash='')}\n?(?P<text>.*?)\n?{_TAG.format(slash='/')}\s*", re.DOTALL)


class CheckedAnswer(Struct, frozen=True, kw_only=True):
    """A valid answer, in the field of its kind; `proposal` and `synthesis` are texts. `missing`: of a review."""

    proposal: str | None = None
    declined: str | None = None
    critiques: tuple[Critique, ...] | None = None
    scores: tuple[Scorecard, ...] | None = None
    reward: float | None = None
    choice: Choice | None = None
    synthesis: str | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class AnswerReader:
    """Reads the answers to one call. What an incomplete review has is kept, and a second answer fills what it lacks."""

    def __init__(self, request: AgentRequested) -> None:
        self.request = request
        self._reviews: Reviews | None = None

    def __call__(self, content: str) -> CheckedAnswer:
        """Raises `AgentCallError` (InvalidAnswer), also for a review that lacks something: see `salvage`."""
        request = self.request
        if request.judge is not None:
            return CheckedAnswer(reward=float(content))
        match request.phase:
            case "propose":
                return CheckedAnswer(proposal=self._text(content))
            case "revise":
                reason = declined(content, request.messages) if request.answer_schema is None else None
                return CheckedAnswer(declined=reason) if reason else CheckedAnswer(proposal=self._text(content))
            case "synthesise":
                return CheckedAnswer(synthesis=self._text(content))
            case "critique" | "score":
                return self._review(content)
            case "vote" | "compare" | "choose":
                return CheckedAnswer(choice=read_choice(content, request.labels))
            case _:
                assert_never(request.phase)

    def salvage(self) -> CheckedAnswer | None:
        """What is there of a review that stayed incomplete; None: nothing that counts."""
        reviews = self._reviews
        if reviews is None or not reviews.has_any:
            return None
        lacks = ", ".join(path.removeprefix("$.") for path in reviews.missing[:MOST_NAMED])
        note = f"a part of a review is missing: {lacks}"
        return self._checked(reviews, notes=(note,), missing=reviews.missing)

    def _review(self, content: str) -> CheckedAnswer:
        request = self.request
        shape = shape_of(request.labels, request.answer_schema, request.phase)
        told = read_reviews(content, shape, request.phase)
        reviews = self._reviews = merged(self._reviews, told, shape)
        if not reviews.missing and reviews.cards:
            return self._checked(reviews)
        named = told.missing[:MOST_NAMED]
        more = len(told.missing) - len(named)
        raise invalid("missing or not valid: " + "; ".join(named) + (f"; and {more} more" if more > 0 else ""))

    def _checked(
        self, reviews: Reviews, *, notes: tuple[str, ...] = (), missing: tuple[str, ...] = ()
    ) -> CheckedAnswer:
        cards = [reviews.cards[label] for label in self.request.labels if label in reviews.cards]
        critiques = tuple(card for card in cards if isinstance(card, Critique))
        scores = tuple(card for card in cards if isinstance(card, Scorecard))
        if self.request.phase == "critique":
            return CheckedAnswer(critiques=critiques, notes=notes, missing=missing)
        return CheckedAnswer(scores=scores, notes=notes, missing=missing)

    def _text(self, content: str) -> str:
        schema = self.request.answer_schema
        if schema is None:
            framed = _OWN_TAGS.fullmatch(content)
            return framed["text"] if framed and framed["text"].strip() else content
        parse(content, schema)
        return json_text(content)
