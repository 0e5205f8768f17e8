"""Runs ruff on one Python snippet: no configuration is read, and nothing on the disk is read or written."""

import asyncio
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

RULES = (
    *("F502", "F503", "F505", "F506", "F507", "F508", "F509"),  # "%d %d" % (1,)
    *("F521", "F524", "F525"),  # "{} {}".format(1)
    *("F621", "F622", "F632", "F634"),  # a, *b, *c = d; x is "text"; if (x, "message"):
    *("F631", "F633", "F707", "F901"),  # assert (x, "message"); print >> x; except: before others; raise NotImplemented
    *("F821", "F823"),  # undefined names
)
"""Pyflakes' findings that are a defect wherever the snippet stands. Ruff adds what is no Python (`invalid-syntax`).

Left out: what is unused (F401, F504, F522, F523, F541, F841, F842), what several files in one snippet look like (F402,
F404, F811), what depends on files that are not there (F403, F405, F822), what a fragment of a loop or function may do
(F701, F702, F704, F706), and F722, which takes the shapes of jaxtyping for annotations.
"""

MAX_OUTPUT_BYTES = 256 * 1024
_OWN_SIGNALS = (signal.SIGABRT, signal.SIGSEGV)
SYNTAX = "invalid-syntax"
UNDEFINED = "F821"
CUT = "cut"
"""The code of a last problem that says that ruff had more to say."""


class RuffFailed(Exception):
    """There is no ruff, or it failed."""


class RuffCrashed(RuffFailed):
    """The code was too much for it: a signal of its own ended it, as it does where brackets nest by the thousand."""


class Problem(NamedTuple):
    """Lines and columns count from 1; `ends_at` is the column after the last one, in the line where it ends."""

    code: str
    message: str
    line: int
    column: int
    ends_at: int

    @property
    def name(self) -> str:
        """Of `UNDEFINED`, whose message is "Undefined name `x`"."""
        return self.message.partition("`")[2].partition("`")[0]


def find() -> Path:
    """Beside the interpreter, then on the PATH. Raises `RuffFailed`."""
    path = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if path is None:
        raise RuffFailed("no ruff was found")
    return Path(path)


async def lint(code: str) -> list[Problem]:
    """In order of appearance; after `MAX_OUTPUT_BYTES` of output a last one is `CUT`. Raises `RuffFailed`."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment()
        )
    except OSError as error:
        raise RuffFailed(f"ruff cannot be started: {error.strerror}") from None
    try:
        output = await _talk(process, _notebook(code))
        if len(output) < MAX_OUTPUT_BYTES and await process.wait() != 0:
            if -(process.returncode or 0) in _OWN_SIGNALS:
                raise RuffCrashed("ruff cannot read it, and crashed")
            raise RuffFailed(f"ruff ended with status {process.returncode}")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
    problems = [_problem(json.loads(line)) for line in output.split(b"\n")[:-1]]
    if len(output) >= MAX_OUTPUT_BYTES:
        problems.append(Problem(CUT, "ruff's further findings", problems[-1].line if problems else 1, 1, 1))
    return problems


async def _talk(process: Process, source: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(source)
        await process.stdin.drain()
        process.stdin.close()
    except OSError:
        pass  # it ended early: its status says so
    try:
        return await process.stdout.readexactly(MAX_OUTPUT_BYTES)
    except asyncio.IncompleteReadError as all_of_it:
        return all_of_it.partial


def _command() -> list[str]:
    options = ["--isolated", "--no-cache", "--quiet", "--exit-zero", "--ignore-noqa", "--output-format", "json-lines"]
    rules = ["--target-version", "py314", "--select", ",".join(RULES), "--config", 'builtins=["_"]']
    return [str(find()), "check", *options, *rules, "--stdin-filename", "block.ipynb", "-"]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("RUFF_")} | {"RAYON_NUM_THREADS": "1"}


def _notebook(code: str) -> bytes:
    """As a cell of a notebook: `await` at the top and `!pip install` are no mistakes there."""
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "1",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": code,
    }
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def _problem(finding: dict[str, Any]) -> Problem:
    begin, end = finding["location"], finding["end_location"]
    return Problem(
        code=finding["code"] or SYNTAX,
        message=finding["message"],
        line=begin["row"],
        column=begin["column"],
        ends_at=end["column"],
    )
