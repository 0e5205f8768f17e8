"""`deploy/with-ray-node`: a driver and its Ray node share one fate. `ray` is a shell script here."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.repository.deploy import DEPLOY
from tests.support.waiting import WITHIN_S, wait_until


def with_ray_node(folder: Path, ray: str, *command: str) -> subprocess.Popen[str]:
    """Runs the script with a `ray` that is the shell script `ray`."""
    stub = folder / "ray"
    stub.write_text(f"#!/bin/bash\n{ray}\n")
    stub.chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "RAY_ADDRESS": "head:6379"}
    script = str(DEPLOY / "with-ray-node")
    return subprocess.Popen([script, *command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_driver_ends_when_its_ray_node_does(tmp_path: Path) -> None:
    """It would go on without being able to start anything; the exit status makes whoever runs the container act."""
    process = with_ray_node(tmp_path, "exit 0", "sleep", "60")
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1
    assert "the Ray node has ended" in said


def test_driver_ends_when_its_ray_node_crashes(tmp_path: Path) -> None:
    """A node that had started is not started again: the driver would stay with the one that is gone."""
    process = with_ray_node(tmp_path, "echo Ray runtime started.; exit 3", "sleep", "60")
    said, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 3
    assert said.count("Ray runtime started.") == 1


def test_ray_says_that_it_has_started() -> None:
    """The words that the script looks for are Ray's."""
    import ray.scripts.scripts

    started = re.search(r'^STARTED="(.+)"', (DEPLOY / "with-ray-node").read_text(), re.MULTILINE)
    assert started
    assert started[1] in Path(ray.scripts.scripts.__file__).read_text()


def test_ray_node_ends_when_its_driver_does(tmp_path: Path) -> None:
    """With the driver's exit status."""
    node = f'trap "kill %1; touch {tmp_path}/left; exit" TERM; sleep 60 & wait'
    process = with_ray_node(tmp_path, node, "bash", "-c", "sleep 0.3; exit 7")
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 7
    assert (tmp_path / "left").exists()


def test_ray_node_that_fails_to_start_is_started_again(tmp_path: Path) -> None:
    """The driver, which waits for its node anyway, goes on; it ends with its own status."""
    third = f"[ $(wc -l < {tmp_path}/tries) -gt 2 ]"
    node = f"echo try >> {tmp_path}/tries; {third} || exit 1; touch {tmp_path}/up; exec sleep 60"
    driver = f"until [ -e {tmp_path}/up ]; do sleep 0.05; done; exit 7"
    process = with_ray_node(tmp_path, node, "bash", "-c", driver)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 7
    assert (tmp_path / "tries").read_text().split() == ["try"] * 3
    assert "ray start has ended with 1: try 3" in said


@pytest.mark.slow
def test_ray_node_that_does_not_start_is_waited_for(tmp_path: Path) -> None:
    """However long the head is away: the driver is left alone, and ends when it is told to."""
    tries = tmp_path / "tries"
    driver = "trap 'kill %1; exit 0' TERM; sleep 90 & wait"
    process = with_ray_node(tmp_path, f"echo try >> {tries}; exit 3", "bash", "-c", driver)
    wait_until(lambda: tries.exists() and len(tries.read_text().split()) > 6)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert len(tries.read_text().split()) > 6


def test_driver_finishes_before_its_ray_node_is_taken_away(tmp_path: Path) -> None:
    """SIGTERM goes to the driver, which still needs the node for what is in flight."""
    log = tmp_path / "log"
    node = f'trap "kill %1; echo node >> {log}; exit" TERM; sleep 60 & wait'
    driver = f'trap "kill %1; sleep 0.3; echo driver >> {log}; exit 0" TERM; touch {tmp_path}/up; sleep 60 & wait'
    process = with_ray_node(tmp_path, node, "bash", "-c", driver)
    wait_until((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert log.read_text().split() == ["driver", "node"]
