"""The locks fit what `pyproject.toml` asks for; `make lock` writes them."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.repository.deploy import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {
    "runtime": PROJECT["project"]["dependencies"],
    "dev": PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"],
    "build": PROJECT["build-system"]["requires"],
}


def locked(name: str) -> dict[str, set[Version]]:
    """Package -> versions: several where they depend on Python's."""
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    found = re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE)
    assert found
    return {each: {Version(version) for package, version in found if package == each} for each, _ in found}


@pytest.mark.parametrize("name", ASKED)
def test_lock_satisfies_the_project(name: str) -> None:
    """Every direct dependency is there, in a version that is asked for. Else: `make lock`."""
    versions = locked(name)
    for text in ASKED[name]:
        asked = Requirement(text)
        assert asked.name in versions, f"{asked.name} is not in locks/{name}.txt: make lock"
        assert all(map(asked.specifier.contains, versions[asked.name])), f"{asked.name}: make lock"


@pytest.mark.parametrize("name", ASKED)
def test_every_locked_package_has_hashes(name: str) -> None:
    """pip refuses a file without; and none comes from an address of its own."""
    text = (ROOT / "locks" / f"{name}.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == sum(map(len, locked(name).values()))
    for line in lines:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line[:60]
    assert "://" not in text


def test_locks_agree() -> None:
    """What is tested is what is shipped."""
    shipped, tested = locked("runtime"), locked("dev")
    assert {each: tested.get(each) for each in shipped} == shipped
    assert all(tested.get(package, versions) == versions for package, versions in locked("build").items())
