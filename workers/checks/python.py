"""Checks Python blocks with ruff: syntax, and certain defects. Nothing is executed or imported."""

import asyncio
import textwrap

import structlog

from fleet.messages import Check
from workers.checks import ruff
from workers.checks.fences import MAX_BLOCK_BYTES, Block
from workers.checks.findings import Findings
from workers.checks.snippets import Snippet, spoken_of, stands_alone

LINT_WITHIN_S = 5.0
"""For all blocks of a proposal."""
MAX_BLOCKS = 50

log = structlog.get_logger(__name__)


async def check(blocks: list[Block], text: str) -> Check:
    """What ruff reports and `snippets` does not excuse; without ruff it says so."""
    findings = Findings()
    ours = [block for block in blocks if block.language == "python" and stands_alone(block)]
    for block in ours[MAX_BLOCKS:][:1]:
        findings.unchecked(f"more than {MAX_BLOCKS} Python blocks", block)
    done: list[Snippet] = []
    try:
        async with asyncio.timeout(LINT_WITHIN_S):
            for block in ours[:MAX_BLOCKS]:
                if block.too_large:
                    findings.unchecked(f"the block is larger than {MAX_BLOCK_BYTES // 1024} KiB", block)
                    continue
                code = textwrap.dedent(block.text)
                try:
                    done.append(Snippet(block, code, await ruff.lint(code)))
                except ruff.RuffCrashed as error:
                    findings.wrong(str(error), block)  # else any code could hide behind such a block
    except (ruff.RuffFailed, TimeoutError) as error:
        what = str(error) or f"ruff took longer than {LINT_WITHIN_S:g} s"
        log.warning("check.not_run", check="python", error=what)
        findings.unchecked(f"{what}; the check could not be run", block)
    _report(done, blocks, text, findings)
    return findings.check()


def _report(snippets: list[Snippet], blocks: list[Block], text: str, findings: Findings) -> None:
    for snippet in snippets:
        findings.applied = True
        if error := snippet.syntax_error():
            findings.wrong(error.message, snippet.block, error.line)
        known = spoken_of(snippet, snippets, blocks, text) if snippet.missing else set()
        for defect in snippet.defects(known):
            if defect.code == ruff.CUT:
                findings.unchecked(defect.message, snippet.block, defect.line)
            else:
                findings.wrong(f"{defect.message} ({defect.code})", snippet.block, defect.line)
