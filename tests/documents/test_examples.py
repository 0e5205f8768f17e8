"""Every example in the documents: programs run against a fleet, results and settings are read by the code."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.config import load
from tests.documents.blocks import Block, blocks
from tests.documents.conftest import Running

SERVICES = {"tickets.opened": {"number": 7, "text": "Checkout fails on retry"}}
"""Examples that run until they are stopped, by what they listen to: a message for them."""
LANGUAGES = {"", "sh", "console", "python", "js", "jsonc", "toml", "text"}


def test_every_block_is_of_a_language_that_is_tested() -> None:
    """So nothing stands in the documents that no test looks at."""
    assert not blocks("json", "yaml", "bash", "javascript", "py", "shell")
    assert {block.language for block in blocks(*LANGUAGES)} <= LANGUAGES - {""}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_example(block: Block, running: Running, tmp_path: Path) -> None:
    """As a program of its own; warnings are errors. A service answers what it is sent, and ends when it is told to."""
    program = tmp_path / "example.py"
    program.write_text(block.text)
    words = [sys.executable, "-W", "error", str(program)]
    subject = next((subject for subject in SERVICES if f'"{subject}"' in block.text), None)
    if subject is None:
        done = running.run(*words)
        assert done.returncode == 0, done.stderr
        assert "COMPLETED" in done.stdout
        assert not done.stderr
        return
    service = subprocess.Popen(words, env=running.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    assert service.stdout is not None
    log = ""
    while "started successfully" not in log:
        line = service.stderr.readline()
        assert line, log
        log += line
    send = "import asyncio, nats, os, sys\n" + (
        "async def main():\n    nc = await nats.connect(os.environ['NATS_URL'])\n"
        "    await nc.publish(sys.argv[1], sys.argv[2].encode(), headers={'content-type': 'application/json'})\n"
        "    await nc.drain()\nasyncio.run(main())"
    )
    assert running.run(sys.executable, "-c", send, subject, json.dumps(SERVICES[subject])).returncode == 0
    lines = iter(service.stdout.readline, "")
    assert any(line == "ticket-7 COMPLETED\n" for line in lines)
    service.terminate()
    _, rest = service.communicate(timeout=60)
    assert service.returncode == 0, rest


@pytest.mark.parametrize("block", blocks("js"), ids=str)
def test_javascript_example(block: Block, running: Running, tmp_path: Path) -> None:
    """With the package that the document has installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm on PATH")
    (install,) = (line.text.strip() for line in blocks("sh") if line.text.startswith("npm "))
    installed = running.run(*install.split(), "--no-audit", "--no-fund", cwd=tmp_path)
    if installed.returncode != 0:
        pytest.skip(f"npm could not install the client: {installed.stderr.splitlines()[:1]}")
    (tmp_path / "example.mjs").write_text(block.text)
    done = running.run("node", "example.mjs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("COMPLETED agent-dev-")


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_understood(block: Block, tmp_path: Path) -> None:
    """By the code that reads `FLEET_CONFIG`."""
    path = tmp_path / "fleet.toml"
    path.write_text(block.text)
    settings = load({"FLEET_CONFIG": str(path)})
    assert tomllib.loads(block.text).keys() <= set(msgspec.structs.asdict(settings))


def test_the_annotated_result_is_one(running: Running) -> None:
    """Each field that the README shows is in a real result, in the same place and of the same kind."""
    (shown,) = blocks("jsonc")
    example = json.loads(re.sub(r"//.*", "", shown.text))
    asked = running.run("fleet", "ask", "Name three risks of a big-bang release", "--role", "ARCHITECT", "--json")
    assert asked.returncode == 0, asked.stderr
    assert not list(missing(example, json.loads(asked.stdout), "$"))


def missing(example: Any, real: Any, path: str) -> list[str]:
    """Where the two differ in form. A list's example stands for all of its items; one of them has to fit."""
    if isinstance(example, dict):
        if not isinstance(real, dict):
            return [path]
        return [
            found
            for key, value in example.items()
            for found in (missing(value, real[key], f"{path}.{key}") if key in real else [f"{path}.{key}"])
        ]
    if isinstance(example, list):
        if not isinstance(real, list):
            return [path]
        return [
            problem
            for index, item in enumerate(example)
            if all(missing(item, other, path) for other in real)
            for problem in [f"{path}[{index}]"]
        ]
    return [] if type(example) is type(real) else [path]
