"""Types generated from the AsyncAPI document compile, and decode every recorded message.

Needs node and the npm registry, so it stands apart from the other tests.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet import __version__, asyncapi
from tests.contract.test_asyncapi import names_for, recorded
from tests.support.asyncapi import DOCUMENT, matching

HERE = Path(__file__).parent
AT = Path(asyncapi.__file__).with_suffix(".json")
TSC = ("--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", "--typeRoots", "none")
"""No types of other packages: they are none of ours."""
pytestmark = pytest.mark.timeout(600)


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{program} is not there")
    return path


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, and the packages that they need."""
    need("node")
    folder = tmp_path_factory.mktemp("generators")
    for file in HERE.iterdir():
        if file.suffix in (".json", ".mjs"):
            shutil.copy(file, folder)
    run(need("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
    return folder


def test_the_official_parser_finds_nothing_wrong(workshop: Path) -> None:
    """No error, no warning, and every message."""
    assert run("node", "parse.mjs", AT, cwd=workshop) == f"messages {len(DOCUMENT['components']['messages'])}\n"


def test_quicktype_decodes_every_recorded_message(workshop: Path) -> None:
    """TypeScript that compiles under `strict`; each recorded message is of its type, and checked when it is read."""
    quicktype = workshop / "node_modules/.bin/quicktype"
    run(quicktype, "-s", "schema", f"{AT}#/components/schemas/", "--lang", "ts", "-o", "types.ts", cwd=workshop)
    tsc = workshop / "node_modules/.bin/tsc"
    run(tsc, *TSC, "types.ts", cwd=workshop)
    bodies = [(name, body) for channel, body in recorded(__version__) for name in matching(names_for(channel), body)]
    (workshop / "bodies.json").write_text(json.dumps(bodies))
    lines = run("node", "decode.mjs", workshop / "types.js", workshop / "bodies.json", cwd=workshop).splitlines()
    assert [line for line in lines if not line.startswith("decoded ")] == []
    assert {line.removeprefix("decoded ") for line in lines} == set(DOCUMENT["components"]["messages"])


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
