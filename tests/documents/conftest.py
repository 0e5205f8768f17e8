"""One fleet for all documents: what `fleet up` starts, and the programs that their commands name."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT
from tests.e2e.conftest import STOPPED_WITHIN_S, environment
from tests.support.nats.natscli import nats_cli


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
            env=environment(FLEET_AGENT_PROTOCOL="true"),
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
    """The real `nats`."""
    return str(nats_cli(tmp_path_factory.mktemp("bin")))
