"""Looks for secrets in processes (environment, command line, memory) and in files."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

CHUNK = 8 * 1024 * 1024
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)$")


def in_bytes(data: bytes, secrets: Mapping[str, bytes]) -> set[str]:
    """Names of the secrets that are in it."""
    return {name for name, secret in secrets.items() if secret in data}


def in_process(pid: int, secrets: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Where -> names. What has ended meanwhile holds nothing."""
    places = {}
    for place in ("environ", "cmdline", "comm"):
        try:
            places[place] = in_bytes(Path(f"/proc/{pid}/{place}").read_bytes(), secrets)
        except (FileNotFoundError, ProcessLookupError):
            continue
    places["memory"] = _in_memory(pid, secrets)
    return {place: found for place, found in places.items() if found}


def _in_memory(pid: int, secrets: Mapping[str, bytes]) -> set[str]:
    """Of what it may write: what it has not written lies in files. Stores of Ray are files in memory."""
    found: set[str] = set()
    overlap = max(map(len, secrets.values()))
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for start, end in _written(pid):
                before = b""
                for at in range(start, end, CHUNK):
                    try:
                        memory.seek(at)
                        data = memory.read(min(CHUNK, end - at))
                    except (OSError, ValueError, OverflowError):
                        before = b""
                        continue
                    found |= in_bytes(before + data, secrets)
                    before = data[-overlap:]
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def _written(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if (match := _MAPPING.match(line)) and "w" in match[3] and "s" not in match[3] and match[5] != "[vvar]":
            yield int(match[1], 16), int(match[2], 16)


def in_files(folder: Path, secrets: Mapping[str, bytes], except_: set[Path]) -> dict[str, set[str]]:
    """File -> names."""
    found = {}
    for path in folder.rglob("*"):
        if path in except_ or path.is_symlink() or not path.is_file():
            continue
        try:
            names = in_bytes(path.read_bytes(), secrets) | in_bytes(str(path).encode(), secrets)
        except FileNotFoundError:
            continue
        if names:
            found[str(path)] = names
    return found
