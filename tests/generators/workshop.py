"""Runs generators and compilers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet import asyncapi

AT = Path(asyncapi.__file__).with_suffix(".json")


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{program} is not there")
    return path


def run(*command: str | Path, cwd: Path, stdin: str = "") -> str:
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def generate(workshop: Path, language: str, into: Path) -> None:
    """Types of all schemas of the document, by quicktype."""
    quicktype = workshop / "node_modules/.bin/quicktype"
    run(quicktype, "-s", "schema", f"{AT}#/components/schemas/", "--lang", language, "-o", into, cwd=workshop)
