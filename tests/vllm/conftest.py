"""`real_vllm`: the base URL of a vLLM serving the tiny model, one for the whole session.

It starts in half a minute, so nothing here is started per test. VLLM_TEST_URL names one that runs already;
VLLM_TEST_ENV an environment of install.sh elsewhere than `.venv-vllm`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet.local.ports import free_port
from tests.support.foreign_server import STOP_WITHIN_S, served

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
START_DEADLINE_S = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test to use the server pays for its start, which the suite's own limit does not foresee."""
    for item in items:
        if {"real_vllm", "lora_vllm", "reward_vllm"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.timeout(START_DEADLINE_S + STOP_WITHIN_S + 60))


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
    with vllm(environment, tmp_path_factory.mktemp("vllm") / "vllm.log") as url:
        yield url


@contextmanager
def vllm(environment: Path, log: Path, *arguments: str, model: str = "tiny-model") -> Iterator[str]:
    """Its base URL. `model`: which of those that install.sh has made."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [HERE / "serve.sh", str(port), environment, *arguments]
    environ = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_TEST_MODEL": model}
    with served(command, f"{url}/health", log, within_s=START_DEADLINE_S, **environ):
        yield url
