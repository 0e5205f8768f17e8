"""What the settings may say of model servers and models, and what is wrong with the rest."""

from pathlib import Path

import pytest

from fleet.config import load
from fleet.errors import ConfigError
from fleet.model_servers import base_url, joined

FILE = """
[endpoints.gpu-1]
url = "http://gpu-1:8000"
kind = "vllm"
models = ["Qwen/Qwen3-32B"]
api_key_env = "GPU_1_KEY"
ca = "/etc/fleet/ca.pem"
max_concurrency = 64
requests_per_minute = 600
tokens_per_minute = 200_000
first_token_timeout_s = 300
price = { input = 0.40, cached = 0.04, output = 1.20 }
request = { temperature = false, top_k = 20 }

[models.fast]
name = "Qwen/Qwen3-8B"
endpoints = ["gpu-1"]
fallbacks = ["big"]
base = "Qwen/Qwen3-8B"
context_window = 32768

[roles.DEV]
model = "fast"
judge_model = "big"
"""


def file(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return {"FLEET_CONFIG": str(path)}


def test_endpoints_and_models_come_from_the_file(tmp_path: Path) -> None:
    """Then answers are real, and no VLLM_URL is needed; one that is set is one more endpoint."""
    settings = load(file(tmp_path, FILE))
    assert settings.agent_type == "vllm"
    assert settings.endpoints["gpu-1"].request == {"temperature": False, "top_k": 20}
    assert settings.models["fast"].fallbacks == ("big",)
    assert settings.roles["DEV"].judge_model == "big"
    both = load({**file(tmp_path, FILE), "VLLM_URL": "http://u:p@b:1/v1", "VLLM_API_KEY": "k\r\n"})
    assert list(both.model_servers) == ["gpu-1", "http://b:1"]
    assert (both.model_servers["http://b:1"].kind, both.model_servers["http://b:1"].key()) == ("vllm", "k")


def test_a_simulated_fleet_has_the_simulator_alone(tmp_path: Path) -> None:
    """Whatever the file names."""
    assert load({**file(tmp_path, FILE), "AGENT_TYPE": "mock"}).model_servers == {}


def test_a_key_is_read_where_it_is_said_to_be(tmp_path: Path) -> None:
    """From a variable or a file, without line ends; never from the settings themselves."""
    endpoint = load(file(tmp_path, FILE)).endpoints["gpu-1"]
    assert endpoint.key({"GPU_1_KEY": " secret\n"}) == "secret"
    with pytest.raises(ValueError, match="GPU_1_KEY"):
        endpoint.key({})
    (tmp_path / "key").write_text("from a file\n")
    text = f'[endpoints.a]\nurl = "http://a"\napi_key_file = "{tmp_path / "key"}"\n'
    assert load(file(tmp_path, text)).endpoints["a"].key({}) == "from a file"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[endpoints.a]\nurl = "gpu:8000"\n', r"endpoints\.a\.url"),
        ('[endpoints.a]\nurl = "http://a"\nkind = "vlm"\n', "kind"),
        ('[endpoints.a]\nurl = "http://a"\nmax_concurency = 3\n', "max_concurency"),
        ('[endpoints.a]\nurl = "http://a"\napi_key = "secret"\n', "api_key_env"),
        ('[endpoints.a]\nurl = "http://a"\napi_key_env = "A"\napi_key_file = "b"\n', "not both"),
        ('[endpoints.a]\nurl = "http://a"\nrequest = { messages = [] }\n', "messages"),
        ('[endpoints.a]\nurl = "http://a"\n[models.m]\nendpoints = ["b"]\n', r"endpoints\.b"),
        ('[endpoints.a]\nurl = "http://a"\n[models.m]\nfallbacks = ["m"]\n', "itself"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    """At the start, and without the key."""
    with pytest.raises(ConfigError, match=says) as raised:
        load(file(tmp_path, text))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "chat"),
    [
        ("http://gpu:8000", "http://gpu:8000/v1/chat/completions"),
        ("http://gpu:8000/v1/", "http://gpu:8000/v1/chat/completions"),
        ("https://g/v1beta/openai/", "https://g/v1beta/openai/chat/completions"),
        ("https://z/api/paas/v4", "https://z/api/paas/v4/chat/completions"),
        ("https://a/openai/v1?api-version=1", "https://a/openai/v1/chat/completions?api-version=1"),
        ("https://a/v1/chat/completions", "https://a/v1/chat/completions"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_the_path_that_is_given_is_kept(url: str, chat: str) -> None:
    """A bare host gets `/v1`; a query stays at the end."""
    assert joined(base_url(url), "/chat/completions") == chat
