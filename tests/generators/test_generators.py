"""Types generated from the AsyncAPI document compile, and decode every recorded message.

Needs node and the npm registry, so it stands apart from the other tests.
"""

import asyncio
import json
import os
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from fleet import client
from tests.generators.workshop import AT, generate, need, run
from tests.support.fleets.whole_fleet import whole
from tests.support.repository.asyncapi import DOCUMENT, recorded_messages

HERE = Path(__file__).parent
CLIENT = Path(client.__file__).parent / "typescript"
STRICT = ("--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler")
TSC = (*STRICT, "--typeRoots", "none")
"""No types of other packages: they are none of ours."""
pytestmark = pytest.mark.timeout(600)


def test_the_official_parser_finds_nothing_wrong(workshop: Path) -> None:
    """No error, no warning, and every message."""
    assert run("node", "parse.mjs", AT, cwd=workshop) == f"messages {len(DOCUMENT['components']['messages'])}\n"


def test_quicktype_decodes_every_recorded_message(workshop: Path) -> None:
    """TypeScript that compiles under `strict`; each recorded message is of its type, and checked when it is read."""
    generate(workshop, "ts", workshop / "types.ts")
    tsc = workshop / "node_modules/.bin/tsc"
    run(tsc, *TSC, "types.ts", cwd=workshop)
    (workshop / "bodies.json").write_text(json.dumps(recorded_messages()))
    lines = run("node", "decode.mjs", workshop / "types.js", workshop / "bodies.json", cwd=workshop).splitlines()
    assert [line for line in lines if not line.startswith("decoded ")] == []
    assert {line.removeprefix("decoded ") for line in lines} == set(DOCUMENT["components"]["messages"])


async def test_the_typed_client_does_what_it_says(workshop: Path, nats_url: str) -> None:
    """`fleet/client/typescript` compiles under `strict` with the generated types, and asks, follows and is refused."""
    folder = workshop / "client"
    folder.mkdir()
    for file in (CLIENT / "client.ts", HERE / "example.ts"):
        shutil.copy(file, folder)
    generate(workshop, "ts", folder / "types.ts")
    run(workshop / "node_modules/.bin/tsc", *STRICT, "--types", "node", "--skipLibCheck", "example.ts", cwd=folder)
    async with whole(nats_url):
        environ = {**os.environ, "NATS_URL": nats_url}
        node = await asyncio.create_subprocess_exec("node", "example.js", cwd=folder, env=environ, stdout=PIPE)
        said, _ = await node.communicate()
    assert said.decode().splitlines() == [
        "asked COMPLETED true true",
        "followed COMPLETED true",
        "result COMPLETED",
        "refused 400 $.num_agents",
        "refused 409",
    ]


def test_modelina_makes_typescript_that_compiles(workshop: Path) -> None:
    """Its models are named after the messages."""
    (workshop / "models").mkdir()
    names = run("node", "modelina.mjs", AT, "ts", workshop / "models", cwd=workshop).split()
    assert set(DOCUMENT["components"]["messages"]) <= set(names)
    files = sorted((workshop / "models").glob("*.ts"))
    run(workshop / "node_modules/.bin/tsc", *TSC, "--noEmit", *files, cwd=workshop)


def test_modelina_makes_java_that_compiles(workshop: Path) -> None:
    """With the compiler alone: its models need no library."""
    javac = need("javac")
    folder = workshop / "java/fleet"
    folder.mkdir(parents=True)
    run("node", "modelina.mjs", AT, "java", folder, cwd=workshop)
    run(javac, "-d", workshop / "classes", *sorted(folder.glob("*.java")), cwd=workshop)
