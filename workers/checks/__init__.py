"""Checks of a proposal's text: its code blocks, and the client's policy. Nothing is executed, fetched or written."""

import asyncio

from fleet.messages import Check, Policy
from workers.checks import fences

NOTHING = Check(status="not_applicable")
"""The text has nothing of the kind. Parsers and schemas are imported when a text needs them, and in a thread."""


async def check(text: str, policy: Policy) -> dict[str, Check]:
    """By check: `python`, `json`, `yaml`, `toml`, `kubernetes`, `policy`, always all of them. Raises nothing."""
    found = dict.fromkeys(("python", "json", "yaml", "toml", "kubernetes", "policy"), NOTHING)
    if fences.fenced(text):
        found |= await _blocks(text)
    if policy.required or policy.forbidden:
        found["policy"] = await asyncio.to_thread(_policy, text, policy)
    return found


async def _blocks(text: str) -> dict[str, Check]:
    if len(text.encode(errors="replace")) > fences.MAX_TEXT_BYTES:
        too_long = f"not checked: the proposal is larger than {fences.MAX_TEXT_BYTES // 1024**2} MiB"
        return dict.fromkeys(
            ("python", "json", "yaml", "toml", "kubernetes"), Check(status="not_applicable", findings=(too_long,))
        )
    blocks = await asyncio.to_thread(fences.blocks, text)
    languages = {block.language for block in blocks}
    found: dict[str, Check] = {}
    if "python" in languages:
        from workers.checks import python

        found["python"] = await python.check(blocks, text)
    if languages & {"json", "yaml", "toml"}:
        found |= await asyncio.to_thread(_data, blocks, text)
    return found


def _data(blocks: list[fences.Block], text: str) -> dict[str, Check]:
    from workers.checks import data

    checked = data.check(blocks)
    found = {name: findings.check() for name, findings in checked.findings.items()}
    if checked.documents:
        from workers.checks import kubernetes

        found["kubernetes"] = kubernetes.check(checked.documents, text)
    return found


def _policy(text: str, policy: Policy) -> Check:
    from workers.checks import policy as patterns

    return patterns.check(text, policy)
