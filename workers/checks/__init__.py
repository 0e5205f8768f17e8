"""Checks a proposal's text: its code blocks, and the client's policy. Nothing is executed, fetched or written.

They take as long as the text likes, within limits of their own: workers run them by `workers.calls.isolated`.
"""

from typing import Literal

from fleet.messages import Check, Policy
from workers.checks import fences

NOTHING = Check(status="not_applicable")
"""The text has nothing of the kind. Parsers and schemas are imported when a text needs them."""

Part = Literal["python", "data", "policy"]
_NAMES: dict[Part, tuple[str, ...]] = {
    "python": ("python",),
    "data": ("json", "yaml", "toml", "kubernetes"),
    "policy": ("policy",),
}
NAMES = tuple(name for names in _NAMES.values() for name in names)


async def check(text: str, policy: Policy) -> dict[str, Check]:
    """By check: `python`, `json`, `yaml`, `toml`, `kubernetes`, `policy`, always all of them. Raises nothing."""
    results = dict.fromkeys(NAMES, NOTHING)
    for each in parts(text, policy):
        results |= await part(each, text, policy)
    return results


def parts(text: str, policy: Policy) -> tuple[Part, ...]:
    """Those that may have something to say: quick, and without a look at what the blocks are."""
    blocks: tuple[Part, ...] = ("python", "data") if fences.fenced(text) else ()
    return (*blocks, "policy") if policy.required or policy.forbidden else blocks


async def part(name: Part, text: str, policy: Policy) -> dict[str, Check]:
    """What one part finds: each may run for itself, so that none hides behind another."""
    if name == "policy":
        from workers.checks import policy as patterns

        return {"policy": patterns.check(text, policy)}
    if len(text.encode(errors="replace")) > fences.MAX_TEXT_BYTES:
        return not_finished(name, f"the proposal is larger than {fences.MAX_TEXT_BYTES // 1024**2} MiB")
    blocks = fences.blocks(text)
    languages = {block.language for block in blocks}
    if name == "python" and "python" in languages:
        from workers.checks import python

        return {"python": await python.check(blocks, text)}
    return _data(blocks, text) if name == "data" and languages & {"json", "yaml", "toml"} else {}


def not_finished(name: Part, why: str) -> dict[str, Check]:
    """A policy that nobody could check to the end was not kept; of blocks nothing is known."""
    if name == "policy":
        return {"policy": Check(status="failed", findings=(why,))}
    return dict.fromkeys(_NAMES[name], Check(status="not_applicable", findings=(f"not checked: {why}",)))


def _data(blocks: list[fences.Block], text: str) -> dict[str, Check]:
    from workers.checks import data

    checked = data.check(blocks)
    results = {name: findings.check() for name, findings in checked.findings.items()}
    if checked.documents:
        from workers.checks import kubernetes

        results["kubernetes"] = kubernetes.check(checked.documents, text)
    return results
