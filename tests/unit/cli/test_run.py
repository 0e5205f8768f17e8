"""What `fleet up` says of where things come from."""

import pytest

from fleet.cli.run import models_from
from fleet.config import Settings
from fleet.model_servers import EndpointConfig

URL = "http://gpu-1:8000"
NAMED = {"gpu-1": EndpointConfig(url=URL)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(vllm_urls=(URL,)), "VLLM_URL"),
        (Settings(endpoints=NAMED), "FLEET_CONFIG"),
        (Settings(vllm_urls=(URL,), endpoints=NAMED), "VLLM_URL and FLEET_CONFIG"),
    ],
)
def test_model_servers_come_from_where_they_were_set(settings: Settings, said: str) -> None:
    """The file's are not given by VLLM_URL."""
    assert models_from(settings) == said
