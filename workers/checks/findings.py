"""Collects the findings of one check, each with its place, and turns them into a status."""

from fleet.messages import Check
from workers.checks.fences import Block
from workers.llm.failures import shorten

MAX_FINDINGS = 20


class Findings:
    """Collects what one check finds. `applied` is set by whoever found something that can be checked.

    Something wrong: failed. Nothing wrong, but something was not looked at: not applicable, since "passed" would be a
    claim. Of more than `MAX_FINDINGS` the last one says how many there were besides.
    """

    def __init__(self) -> None:
        self.applied = False
        self._first: list[str] = []
        self._count = 0
        self._failed = False
        self._unchecked = False

    def wrong(self, what: str, block: Block | None = None, line: int = 1) -> None:
        """`line` counts from 1 within the block."""
        self._failed = True
        self._add(what, block, line)

    def unchecked(self, what: str, block: Block | None = None, line: int = 1) -> None:
        """The proposal is not blamed for it, but is told."""
        self._unchecked = True
        self._add(f"not checked: {what}", block, line)

    def check(self) -> Check:
        shown = tuple(self._first)
        if self._count > MAX_FINDINGS:
            shown = (*shown[: MAX_FINDINGS - 1], f"and {self._count - MAX_FINDINGS + 1} more findings")
        if self._failed:
            return Check(status="failed", findings=shown)
        if self.applied and not self._unchecked:
            return Check(status="passed")
        return Check(status="not_applicable", findings=shown)

    def _add(self, what: str, block: Block | None, line: int) -> None:
        self._count += 1
        if self._count <= MAX_FINDINGS:
            what = shorten(what)
            self._first.append(what if block is None else f"{block.where(line)}: {what}")
