"""`real_vllm`: the base URL of a vLLM serving the tiny model, one for the whole session.

It starts in half a minute, so nothing here is started per test. VLLM_TEST_URL names one that runs already;
VLLM_TEST_ENV an environment of install.sh elsewhere than `.venv-vllm`.
"""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet.local.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
START_DEADLINE_S = 240
STOP_DEADLINE_S = 20
LOG_TAIL_LINES = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test to use the server pays for its start, which the suite's own limit does not foresee."""
    for item in items:
        if {"real_vllm", "lora_vllm"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.timeout(START_DEADLINE_S + STOP_DEADLINE_S + 60))


@pytest.fixture(scope="session")
def vllm_environment() -> Path:
    """What install.sh has made."""
    environment = Path(os.environ.get("VLLM_TEST_ENV", ROOT / ".venv-vllm"))
    if not (environment / ".installed").is_file():
        missing = f"no vLLM in {environment}: run tests/vllm/install.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return environment


@pytest.fixture(scope="session")
def real_vllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("VLLM_TEST_URL"):
        yield url.rstrip("/")
        return
    environment: Path = request.getfixturevalue("vllm_environment")
    with served(environment, tmp_path_factory.mktemp("vllm") / "vllm.log") as url:
        yield url


@contextmanager
def served(environment: Path, log: Path, *arguments: str) -> Iterator[str]:
    port = free_port()
    with log.open("wb") as output:
        server = subprocess.Popen(
            [HERE / "serve.sh", str(port), environment, *arguments],
            env={**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the engine is a child process: the group is ended as one
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url, server, log)
        yield url
    finally:
        end_group(server)


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"vLLM ended with status {server.returncode} before it was ready\n{tail(log)}")
        if healthy(url):
            return
        time.sleep(0.5)
    pytest.fail(f"vLLM was not ready after {START_DEADLINE_S} s\n{tail(log)}")


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def end_group(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM to every process of the server's group, SIGKILL to those that outlast the deadline."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, ending)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + STOP_DEADLINE_S
        while group_exists(server) and time.monotonic() < deadline:
            time.sleep(0.1)
    server.wait(STOP_DEADLINE_S)


def group_exists(server: subprocess.Popen[bytes]) -> bool:
    server.poll()  # a leader that has ended stays in the group until it is waited for
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
