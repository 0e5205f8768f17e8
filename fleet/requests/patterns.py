"""Compiles clients' regular expressions, in one way for the parser of requests and the check of proposals.

Syntax as in Python's `re` (the `regex` package's V0), `^` and `$` at every line. Nothing of the fleet is imported here.
"""

import re

import regex

MOST_POSITIONS = 10_000
"""A compiled pattern takes memory for each, and counted repeats multiply: `(a{1000}){1000}` has a million."""

_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_BRACED_ESCAPE = re.compile(r"\\[A-Za-z]\{[^}]*\}")


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Raises ValueError, with the reason, for an invalid or too large regular expression."""
    if positions(pattern) > MOST_POSITIONS:
        raise ValueError(f"its repeats come to more than {MOST_POSITIONS:,} positions")
    try:
        return regex.compile(pattern, regex.V0 | regex.MULTILINE)
    except regex.error as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def positions(pattern: str) -> int:
    """About how many characters the pattern has with its counted repeats written out."""
    totals, last, at = [0], 0, 0
    while at < len(pattern):
        step = 1
        match pattern[at]:
            case "(":
                totals.append(0)
                last = 0
            case ")" if len(totals) > 1:
                last = totals.pop() + 1
                totals[-1] += last
            case "{" if (repeat := _REPEAT.match(pattern, at)) and any(repeat.groups()):
                times = max(1, *(int(bound) for bound in repeat.groups() if bound))
                totals[-1] += last * (times - 1)
                last *= times
                step = repeat.end() - at
            case "\\":
                braced = _BRACED_ESCAPE.match(pattern, at)
                step = braced.end() - at if braced else 2
                last = 1
                totals[-1] += 1
            case "[":
                step = _class_length(pattern, at)
                last = 1
                totals[-1] += 1
            case _:
                last = 1
                totals[-1] += 1
        at += step
    return sum(totals)


def _class_length(pattern: str, at: int) -> int:
    """Length of the character class that begins at `at`, brackets included."""
    end = at + 1
    end += pattern[end : end + 1] == "^"
    end += pattern[end : end + 1] == "]"  # the first one is a member
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1 - at


def bad_pattern(pattern: str) -> str | None:
    """Why it cannot be compiled; None when it can."""
    try:
        compile_pattern(pattern)
    except ValueError as error:
        return str(error)
    return None
