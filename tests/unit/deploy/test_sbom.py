"""The check of the SBOM: it passes for what the lock file names, and for nothing else."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
HASH = "0123456789abcdef" * 4
LOCK = f"""\
one==1.0 \\
    --hash=sha256:{HASH}
two-b[extra]==2 ; python_version < '4' \\
    --hash=sha256:{HASH[::-1]}
"""
REFERENCE = [{"hashes": [{"alg": "SHA-256", "content": HASH}, {"alg": "SHA-256", "content": HASH[::-1]}]}]
SBOM: dict[str, Any] = {
    "components": [
        {"name": "one", "version": "1.0", "externalReferences": REFERENCE},
        {"name": "Two_B", "version": "2", "externalReferences": REFERENCE},
    ]
}


def check(folder: Path, sbom: dict[str, Any], lock: str = LOCK) -> tuple[int, str]:
    (folder / "sbom.json").write_text(json.dumps(sbom))
    (folder / "lock.txt").write_text(lock)
    command = [sys.executable, str(ROOT / "locks" / "check_sbom.py"), "sbom.json", "lock.txt"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_an_sbom_of_what_is_locked_is_fine(tmp_path: Path) -> None:
    assert check(tmp_path, SBOM) == (0, "sbom.json: 2 parts, as lock.txt names them\n")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda parts: parts.pop(), "two-b: is missing"),
        (lambda parts: parts.append({"name": "three", "version": "3"}), "three: is not in the lock file"),
        (lambda parts: parts[0].update(version="1.1"), "one: has version 1.1, locked is 1.0"),
        (lambda parts: parts[0].update(externalReferences=[]), "one: lacks hashes"),
    ],
)
def test_any_difference_is_told(tmp_path: Path, change: Any, says: str) -> None:
    sbom = copy.deepcopy(SBOM)
    change(sbom["components"])
    assert check(tmp_path, sbom) == (1, f"{says}\n")


def test_an_empty_lock_file_is_no_success(tmp_path: Path) -> None:
    assert check(tmp_path, {"components": []}, "")[0] == 1
