"""The folder in which types are generated."""

import shutil
from pathlib import Path

import pytest

from tests.generators.workshop import need, run

HERE = Path(__file__).parent


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
