"""Finds and runs the `nats` command line: from PATH, or packed beside the checkout."""

import asyncio
import lzma
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

PACKED = Path("shared", "bin", "nats.xz")
ROOT = Path(__file__).parents[3]
WITHIN_S = 30.0
"""It gives up by itself after 5 s; one that hangs does not."""


@cache
def _packed() -> Path | None:
    return next((folder / PACKED for folder in ROOT.parents if (folder / PACKED).exists()), None)


def nats_cli(unpack_to: Path) -> Path:
    """Where it is. Skips without it on a laptop; fails under CI."""
    if found := shutil.which("nats"):
        return Path(found)
    packed = _packed()
    if packed is None:
        missing = "the `nats` command line is missing: github.com/nats-io/natscli"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    binary = unpack_to / "nats"
    binary.write_bytes(lzma.decompress(packed.read_bytes()))
    binary.chmod(0o755)
    return binary


async def run(binary: Path, url: str, *words: str) -> tuple[int, str]:
    """Exit status and all output; one that asks, or hangs, is ended and is an error."""
    process = await asyncio.create_subprocess_exec(
        *(str(binary), "--server", url, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HOME": str(binary.parent), "XDG_CONFIG_HOME": str(binary.parent)},
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        out, _ = await process.communicate()
        pytest.fail(f"nats {' '.join(words)} hangs: {out.decode()}")
    assert process.returncode is not None
    return process.returncode, out.decode()
