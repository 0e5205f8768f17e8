"""Writes a text that matches a regular expression. Pure.

The parsed expression is walked, each part spelling out one text that it matches.
"""

import importlib
import string
from random import Random
from typing import Any

_LETTERS = string.ascii_lowercase
_CATEGORIES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_NOT_DIGIT": _LETTERS,
    "CATEGORY_WORD": _LETTERS + string.digits + "_",
    "CATEGORY_NOT_WORD": "-. ",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": _LETTERS,
}


class UnsupportedPattern(ValueError):
    """The pattern uses something not understood here."""


def spell(pattern: str, extra: int, rng: Random) -> str:
    """A text that `pattern` matches, most likely; `extra` more repetitions than needed wherever it allows more.

    Raises UnsupportedPattern, and `re.error` for what is no regular expression.
    """
    # The parser behind `re`: not a public name, but the alternative is writing one for a best-effort feature.
    return _spell(importlib.import_module("re._parser").parse(pattern), extra, rng)


def _spell(parsed: Any, extra: int, rng: Random) -> str:
    out = []
    for operation, argument in parsed:
        match str(operation), argument:
            case "LITERAL", code:
                out.append(chr(code))
            case "NOT_LITERAL", code:
                out.append("x" if code != ord("x") else "y")
            case "ANY", _:
                out.append(rng.choice(_LETTERS))
            case "IN", members:
                out.append(rng.choice(_characters(members)))
            case "BRANCH", (_, branches):
                out.append(_spell(rng.choice(branches), extra, rng))
            case "SUBPATTERN", (_, _, _, inner):
                out.append(_spell(inner, extra, rng))
            case (("MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT"), (fewest, most, inner)):
                times = min(int(most), int(fewest) + extra)
                out.extend(_spell(inner, extra, rng) for _ in range(times))
            case (("AT" | "ASSERT" | "ASSERT_NOT"), _):
                pass  # anchors add nothing; whether a look-around holds is checked on the whole text
            case unknown, _:
                raise UnsupportedPattern(f"pattern uses {unknown}")
    return "".join(out)


def _characters(members: Any) -> str:
    allowed, negated = "", False
    for operation, argument in members:
        match str(operation), argument:
            case "NEGATE", _:
                negated = True
            case "LITERAL", code:
                allowed += chr(code)
            case "RANGE", (first, last):
                allowed += "".join(map(chr, range(first, min(last, first + 255) + 1)))
            case "CATEGORY", category:
                allowed += _CATEGORIES[str(category)]
    if negated:
        return "".join(sorted(set(_LETTERS + string.digits + "-. ") - set(allowed)))
    return allowed
