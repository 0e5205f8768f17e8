"""Clients' regular expressions: read in the same way by who accepts a policy and by who searches with it.

Syntax as in Python's `re` (the `regex` package's V0), `^` and `$` at every line. Nothing of the fleet is imported here.
"""

import regex


def compile(pattern: str) -> regex.Pattern[str]:
    """Raises ValueError, which says why, for what is no regular expression."""
    try:
        return regex.compile(pattern, regex.V0 | regex.MULTILINE)
    except regex.error as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def bad_pattern(pattern: str) -> str | None:
    """Why it cannot be compiled; None when it can."""
    try:
        compile(pattern)
    except ValueError as error:
        return str(error)
    return None
