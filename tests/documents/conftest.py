"""One fleet for all documents: what `fleet up` starts, and the programs that their commands name."""

import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT
from tests.e2e.conftest import STOPPED_WITHIN_S, environment

PACKED = Path("shared", "bin", "nats.xz")
"""Where `nats` lies beside a checkout, for those who do not have it on PATH."""


@dataclass(frozen=True)
class Running:
    """A fleet, and the environment in which the documents' commands find it."""

    url: str
    environ: dict[str, str]

    def run(self, *words: str, cwd: Path | None = None, within_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=self.environ, cwd=cwd or ROOT, capture_output=True, text=True, timeout=within_s, check=False
        )


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`fleet up --json`, as the documents start it."""
    directory = tmp_path_factory.mktemp("documents")
    with (directory / "fleet.log").open("w") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "fleet.cli", "up", "--json", "--data-dir", str(directory / "data")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(),
        )
    assert up.stdout is not None
    line = up.stdout.readline()
    assert line, (directory / "fleet.log").read_text()[-4000:]
    url = json.loads(line)["nats_url"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    # No context of the user's own decides where `nats` goes.
    yield Running(url, environment(NATS_URL=url, PATH=path, COLUMNS="200", XDG_CONFIG_HOME=str(directory)))
    up.terminate()
    assert up.wait(STOPPED_WITHIN_S) == 0
    up.stdout.close()


@pytest.fixture(scope="session")
def nats_command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real `nats`: the one on PATH, else the packed one beside the checkout. A visible skip without either."""
    if found := shutil.which("nats"):
        return found
    packed = next((folder / PACKED for folder in ROOT.parents if (folder / PACKED).exists()), None)
    if packed is None:
        pytest.skip("no `nats` command line on PATH: https://github.com/nats-io/natscli")
    program = tmp_path_factory.mktemp("bin") / "nats"
    program.write_bytes(lzma.decompress(packed.read_bytes()))
    program.chmod(0o755)
    return str(program)
