"""Searches the whole proposal for the patterns of the client's policy."""

import time

from fleet.messages import Check, Policy
from fleet.requests import patterns
from workers.checks.findings import Findings

SEARCH_WITHIN_S = 0.5
"""For one pattern; some backtrack for years."""
ALL_WITHIN_S = 5.0


def check(text: str, policy: Policy) -> Check:
    """A pattern that takes too long fails: nobody can say that the proposal keeps to it."""
    findings = Findings()
    text = text.replace("\r\n", "\n")
    ends_at = time.monotonic() + ALL_WITHIN_S
    for is_required, each in ((True, policy.required), (False, policy.forbidden)):
        for pattern in each:
            _search(text, pattern, is_required, ends_at, findings)
    return findings.check()


def _search(text: str, pattern: str, is_required: bool, ends_at: float, findings: Findings) -> None:
    name = f"{'required' if is_required else 'forbidden'} pattern {pattern!r}"
    try:
        compiled = patterns.compile_pattern(pattern)
    except ValueError as error:
        findings.unchecked(f"cannot be compiled ({error}): {name}")
        return
    findings.applied = True
    left_s = ends_at - time.monotonic()
    try:
        if left_s <= 0:
            raise TimeoutError
        match = compiled.search(text, timeout=min(SEARCH_WITHIN_S, left_s))
    except TimeoutError:
        findings.wrong(f"timed out: {name}")
        return
    except MemoryError:
        findings.wrong(f"ran out of memory: {name}")
        return
    if is_required and match is None:
        findings.wrong(f"not found: {name}")
    elif match is not None and not is_required:
        line = text.count("\n", 0, match.start()) + 1
        findings.wrong(f"found at line {line} of the proposal: {name}")
