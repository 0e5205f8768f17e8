"""Holds an SBOM against the lock file that it was made from: every part with its version and all of its hashes.

Run as `python locks/check_sbom.py dist/sbom.json locks/runtime.txt`; needs nothing but Python.
"""

import json
import re
import sys
from pathlib import Path

_PART = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def main(sbom: Path, lock: Path) -> int:
    locked = parts_of_lock(lock.read_text())
    listed = parts_of_sbom(json.loads(sbom.read_text()))
    wrong = [f"{name}: {problem}" for name, problem in problems(locked, listed)]
    if not locked:
        wrong.append(f"{lock}: names no part")
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"{sbom}: {len(locked)} parts, as {lock} names them")
    return 1 if wrong else 0


def problems(locked: dict[str, tuple[str, set[str]]], listed: dict[str, tuple[str, set[str]]]) -> list[tuple[str, str]]:
    """(part, what is wrong)."""
    found = [(name, "is not in the lock file") for name in sorted(listed.keys() - locked.keys())]
    for name, (version, hashes) in sorted(locked.items()):
        if name not in listed:
            found.append((name, "is missing"))
        elif listed[name][0] != version:
            found.append((name, f"has version {listed[name][0]}, locked is {version}"))
        elif not hashes or not hashes <= listed[name][1]:
            found.append((name, "lacks hashes"))
    return found


def parts_of_lock(text: str) -> dict[str, tuple[str, set[str]]]:
    starts = [*_PART.finditer(text)]
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return {
        canonical(match[1]): (match[2], set(_HASH.findall(text[match.start() : end])))
        for match, end in zip(starts, ends, strict=True)
    }


def parts_of_sbom(document: dict[str, object]) -> dict[str, tuple[str, set[str]]]:
    found = {}
    components = document.get("components")
    for component in components if isinstance(components, list) else []:
        references = component.get("externalReferences", [])
        hashes = {each["content"] for reference in references for each in reference.get("hashes", [])}
        hashes |= {each["content"] for each in component.get("hashes", [])}
        found[canonical(component["name"])] = (component.get("version", ""), hashes)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
