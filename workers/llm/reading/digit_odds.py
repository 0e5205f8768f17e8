"""Says what score a judge expects: the mean over the digits that it might have written, by their log-probabilities.

A drawn digit is one throw; the server knows the whole die. Servers with OpenAI's `logprobs` tell for each token what
else was likely there. They tell it as the model has it, before a grammar or a temperature.
"""

import re
from collections.abc import Mapping
from math import exp
from typing import Any

from msgspec import Struct

MOST = 10
LEAST_KNOWN = 0.5
"""With less of the probability on digits that the server tells, the mean of these would say little."""
_DIGITS = 4
_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)', re.DOTALL)
_WHOLE = re.compile(r"10|\d")


class _Token(Struct, frozen=True):
    """`chances`: of the texts, without white space, that might stand here, the written one among them."""

    text: str
    chances: Mapping[str, float]


class DigitOdds:
    """Of one answer. Keeps what stands where digits were written, and right after a 1."""

    def __init__(self) -> None:
        self._tokens: dict[int, _Token] = {}
        self._after_one = False

    def take(self, at: int, logprobs: Any) -> None:
        """`logprobs` of an event whose text begins at this character; what cannot be read is left out."""
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        for token in content if isinstance(content, list) else ():
            text = token.get("token") if isinstance(token, dict) else None
            if not isinstance(text, str):
                return  # What comes after it has no place.
            bare = text.strip()
            if bare.isdecimal() or self._after_one:
                start = at if self._after_one else at + len(text) - len(text.lstrip())
                self._tokens[start] = _Token(bare, _chances(token))
            self._after_one = bare == "1"
            at += len(text)

    def with_expected(self, text: str, begins: int) -> str:
        """JSON in which each score that has odds is an object of both: `{"score": 7.4, "drawn": 8}`.

        `begins`: the place of the text in all that was written.
        """
        if not self._tokens:
            return text

        def both(match: re.Match[str]) -> str:
            number = match["number"]
            expected = self._expected(begins + match.start(), number) if number else None
            return match[0] if expected is None else f'{{"score": {expected}, "drawn": {number}}}'

        return _NUMBER.sub(both, text)

    def _expected(self, at: int, drawn: str) -> float | None:
        token = self._tokens.get(at)
        if token is None or not _WHOLE.fullmatch(drawn) or not drawn.startswith(token.text):
            return None
        chances = {int(text): chance for text, chance in token.chances.items() if _WHOLE.fullmatch(text)}
        if MOST not in chances and 1 in chances:
            one = chances.pop(1)
            tens = self._share_of_tens(at, drawn)
            chances |= {1: one * (1 - tens), MOST: one * tens}
        known = sum(chances.values())
        if known < LEAST_KNOWN:
            return None
        return round(sum(digit * chance for digit, chance in chances.items()) / known, _DIGITS)

    def _share_of_tens(self, at: int, drawn: str) -> float:
        """Of a 1 that may begin a 10: what the next token's odds say, else whichever is nearer to what was written."""
        if self._tokens[at].text != "1":
            return float(2 * int(drawn) > 1 + MOST)
        following = self._tokens.get(at + 1)
        if following is None:
            return float(drawn == str(MOST))
        return sum(chance for text, chance in following.chances.items() if text == "0")


def _chances(token: dict[str, Any]) -> dict[str, float]:
    """Of what might stand in a token's place; a server may leave the written one out of its list."""
    others = token.get("top_logprobs")
    told = others if isinstance(others, list) else []
    chances: dict[str, float] = {}
    for each in told if _holds(told, token["token"]) else [token, *told]:
        if isinstance(each, dict) and isinstance(each.get("token"), str) and _is_number(each.get("logprob")):
            text = each["token"].strip()
            chances[text] = chances.get(text, 0.0) + exp(min(0.0, each["logprob"]))
    return chances


def _holds(told: list[Any], text: str) -> bool:
    return any(isinstance(each, dict) and each.get("token") == text for each in told)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
