"""A real llama.cpp with a small real model, and a real LiteLLM proxy in front of it: one of each for the session."""

import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.local.ports import free_port
from tests.support.foreign_server import served

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(os.environ.get("SERVERS_TEST_ENV", ROOT / ".venv-servers")).resolve()
STARTED_WITHIN_S = 180
MODEL = "SmolLM2-135M-Instruct"
PROXY_KEY = "sk-of-the-proxy"

PROXY = """
model_list:
  - model_name: small
    litellm_params: {{model: openai/{model}, api_base: "{llama}/v1", api_key: none}}
  - model_name: narrow
    litellm_params: {{model: openai/{model}, api_base: "{llama}/v1", api_key: none, rpm: 2}}
  - model_name: gone
    litellm_params: {{model: openai/gone, api_base: "http://127.0.0.1:{closed}/v1", api_key: none}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
litellm_settings: {{num_retries: 0, telemetry: false}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True)
class Proxy:
    """`written`: tokens that llama.cpp has written, whoever asked."""

    url: str
    written: Callable[[], int]


@pytest.fixture(scope="session")
def llamacpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its base URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "workers.local_model", "--port", str(port), "--parallel", "4"]
    with _served(command, f"{url}/health", tmp_path_factory.mktemp("llamacpp") / "log"):
        yield url


@pytest.fixture(scope="session")
def litellm(llamacpp: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that demands a key. Of its models one is sound, one has room for little, and one has no server."""
    folder = tmp_path_factory.mktemp("litellm")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = folder / "config.yaml"
    config.write_text(PROXY.format(model=MODEL, llama=llamacpp, closed=free_port(), key=PROXY_KEY))
    run = "import sys; from litellm import run_server; sys.exit(run_server())"
    command = ["-c", run, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with _served(command, f"{url}/health/liveliness", folder / "log"):
        yield Proxy(url, lambda: _written(llamacpp))


def _written(llama: str) -> int:
    with urllib.request.urlopen(f"{llama}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("llamacpp:tokens_predicted_total")).split()[1]))


def _served(arguments: list[str], healthy: str, log: Path) -> AbstractContextManager[None]:
    """A server of the environment."""
    if not (ENVIRONMENT / ".installed").is_file():
        pytest.fail(f"no servers in {ENVIRONMENT}: run tests/servers/install.sh")
    command = [ENVIRONMENT / "bin" / "python", *arguments]
    return served(command, healthy, log, within_s=STARTED_WITHIN_S, cwd=log.parent, PYTHONPATH=str(ROOT))
