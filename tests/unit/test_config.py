"""What the settings may say of model servers and models, and what is wrong with the rest."""

from pathlib import Path

import pytest

from fleet.config import load, read_again
from fleet.errors import ConfigError
from fleet.model_servers import EndpointConfig, base_url, joined
from fleet.secret_files import SECRETS

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


def test_a_role_may_have_several_models_with_shares(tmp_path: Path) -> None:
    """The largest share is its usual one; a share is above 0."""
    role = '[roles.DEV]\nmodels = { fast = 9, candidate = 1 }\njudge_model = "big"\n'
    profile = load(file(tmp_path, role)).roles["DEV"]
    assert profile.models == {"fast": 9, "candidate": 1}
    assert (profile.usual_model, profile.all_models) == ("fast", ("fast", "candidate", "big"))
    for wrong in ("{ fast = 0 }", "{}"):
        with pytest.raises(ConfigError, match="models"):
            load(file(tmp_path, f"[roles.DEV]\nmodels = {wrong}\n"))


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


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("", {}, (1024**3, "file")),
        ('[streams.AGENT_RESPONSES]\nmax_bytes = "5GiB"\n', {}, (5 * 1024**3, "file")),
        ('[streams.AGENT_RESPONSES]\nmax_bytes = 500_000_000\nstorage = "memory"\n', {}, (500_000_000, "memory")),
        (
            '[streams.AGENT_RESPONSES]\nmax_bytes = "5GiB"\nstorage = "memory"\n',
            {"FLEET_STREAM_AGENT_RESPONSES_MAX_BYTES": "500 mb", "FLEET_STREAM_AGENT_RESPONSES_STORAGE": "file\n"},
            (500_000_000, "file"),
        ),
    ],
)
def test_sizes_of_streams(tmp_path: Path, text: str, environ: dict[str, str], expected: tuple[int, str]) -> None:
    """From the file, then the environment; what neither names has its default."""
    streams = load({**file(tmp_path, text), **environ}).streams
    assert (streams["AGENT_RESPONSES"].max_bytes, streams["AGENT_RESPONSES"].storage) == expected
    assert streams["OBJ_deliberation-texts"].max_bytes == 1024**3


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ('[streams.AGENT_ANSWERS]\nmax_bytes = "5GiB"\n', {}, r"streams\.AGENT_ANSWERS: no such stream"),
        ('[streams.DELIBERATIONS]\nmax_bytes = "lots"\n', {}, r"streams\.DELIBERATIONS\.max_bytes: expected a size"),
        ('[streams.DELIBERATIONS]\nmax_bytes = "0"\n', {}, r"streams\.DELIBERATIONS\.max_bytes"),
        ("[streams.DELIBERATIONS]\nreplicas = 3\n", {}, r"streams\.DELIBERATIONS\.replicas"),
        ("", {"FLEET_STREAM_KV_DELIBERATIONS_STORAGE": "tape"}, "FLEET_STREAM_KV_DELIBERATIONS_STORAGE"),
        ("", {"FLEET_STREAM_OBJ_DELIBERATION_TEXTS_MAX_BYTES": "1PB"}, "FLEET_STREAM_OBJ_DELIBERATION_TEXTS_MAX_BYTES"),
    ],
)
def test_a_wrong_size_is_told_by_its_setting(tmp_path: Path, text: str, environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load({**file(tmp_path, text), **environ})


@pytest.mark.parametrize(
    ("name", "field", "text", "expected"),
    [
        ("NATS_URL", "nats_url", "nats://u:p@host\n", "nats://u:p@host"),
        ("NATS_USER", "nats_user", " control\n", "control"),
        ("NATS_PASSWORD", "nats_password", "pass word \r\n", "pass word"),
        ("NATS_TOKEN", "nats_token", "t", "t"),
        ("VLLM_URL", "vllm_urls", "http://u:p@a:1, http://b:2/v1\n", ("http://u:p@a:1", "http://b:2")),
        ("VLLM_API_KEY", "vllm_api_key", "key\n", "key"),
    ],
)
def test_a_secret_is_read_from_its_file(tmp_path: Path, name: str, field: str, text: str, expected: object) -> None:
    """Which the environment names, or the configuration; and it is read again when it has changed."""
    secret = tmp_path / "secret"
    secret.write_text(text)
    settings = load({f"{name}_FILE": str(secret)})
    assert getattr(settings, field) == expected
    if name != "VLLM_URL":
        assert getattr(load(file(tmp_path, f'{name}_FILE = "{secret}"\n')), field) == expected
        secret.write_text("nats://rotated")
        assert getattr(read_again(settings), field) == "nats://rotated"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_cannot_be_read_is_told_by_its_setting(tmp_path: Path, name: str) -> None:
    """And nothing of what is in the file, or of what stands beside it."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "bytes").write_bytes(b"s3cr3t\xff")
    (tmp_path / "large").write_text("s3cr3t" * 20_000)
    for path in (*(tmp_path / each for each in ("none", "empty", "bytes", "large")), tmp_path, "s3cr3t\0"):
        with pytest.raises(ConfigError, match=f"^{name}_FILE: ") as raised:
            load({f"{name}_FILE": str(path)})
        assert path == "s3cr3t\0" or "s3cr3t" not in str(raised.value)
    (tmp_path / "set").write_text("s3cr3t")
    with pytest.raises(ConfigError, match=f"{name} and {name}_FILE are both set") as raised:
        load({f"{name}_FILE": str(tmp_path / "set"), name: "s3cr3t"})
    assert "s3cr3t" not in str(raised.value)


def test_the_key_of_the_short_form_is_read_for_each_connection(tmp_path: Path) -> None:
    """So that a rotated one counts."""
    (tmp_path / "key").write_text("old")
    settings = load({"VLLM_URL": "http://a", "VLLM_API_KEY_FILE": str(tmp_path / "key")})
    (tmp_path / "key").write_text("new\n")
    assert settings.model_servers["http://a"].key({}) == "new"


@pytest.mark.parametrize(
    "line",
    [
        'headers = { Authorization = "s3cr3t" }',
        'headers = { "x-api-key" = "s3cr3t" }',
        'headers = { X-Auth-Token = "s3cr3t" }',
        'headers = { X-Team = "Bearer s3cr3t" }',
        'headers = { X-Team = "sk-s3cr3ts3cr3ts3cr3t" }',
        'headers = { Cookie = "session=s3cr3t" }',
        'request = { api_key = "s3cr3t" }',
        'request = { extra_body = { nested = [{ access_token = "s3cr3t" }] } }',
        'request = { password = "s3cr3t" }',
        'request = { tools = ["Bearer s3cr3t"] }',
        'headers = { X-A = "a" }\nheaders_env = { X-A = "VARIABLE" }',
    ],
)
def test_no_secret_stands_in_the_file(tmp_path: Path, line: str) -> None:
    """It would be handed to Ray with the settings. The error says where, what to use, and never the secret."""
    with pytest.raises(ConfigError, match=r"endpoints\.a\..*(headers_env|api_key_env)") as raised:
        load(file(tmp_path, f'[endpoints.a]\nurl = "http://a"\n{line}\n'))
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://u:s3cr3t@a", "http://a/v1?key=s3cr3t", "http://a/v1?api-key=s3cr3t&b=1"])
def test_no_secret_stands_in_an_endpoints_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"endpoints\.a\.url: .*(headers_env|api_key_env)") as raised:
        load(file(tmp_path, f'[endpoints.a]\nurl = "{url}"\n'))
    assert "s3cr3t" not in str(raised.value)


def test_what_only_looks_like_a_secret_may_stand_in_the_file(tmp_path: Path) -> None:
    """Tokens are counted, and servers have versions."""
    text = """
[endpoints.a]
url = "https://a.openai.azure.com/openai/v1?api-version=2026-01-01"
headers = { X-Team = "platform", HTTP-Referer = "https://example.org", X-Title = "fleet" }
request = { min_tokens = 1, stop_token_ids = [7], return_token_ids = true, skip_special_tokens = false, top_k = 20 }
"""
    assert load(file(tmp_path, text)).endpoints["a"].headers["X-Team"] == "platform"


def test_secret_headers_are_read_where_they_are_said_to_be(tmp_path: Path) -> None:
    """On the machine of the worker, from a variable or a file."""
    (tmp_path / "cookie").write_text("c=1\n")
    endpoint = EndpointConfig(
        url="http://a", headers_env={"X-Key": "A_KEY"}, headers_file={"Cookie": str(tmp_path / "cookie")}
    )
    assert endpoint.secret_headers({"A_KEY": "key\n"}) == {"X-Key": "key", "Cookie": "c=1"}
    with pytest.raises(ValueError, match="A_KEY of the header X-Key is not set"):
        endpoint.secret_headers({})


@pytest.mark.parametrize("given", ["http://127.0.0.1:8265", "ray://head:10001"])
def test_an_address_of_ray_that_can_never_be_joined_is_refused(given: str) -> None:
    """Instead of being tried for ever: the dashboard's, and that of Ray's client."""
    with pytest.raises(ConfigError, match="RAY_ADDRESS: expected HOST:PORT"):
        load({"RAY_ADDRESS": given})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tenants.a]\n[tenants.b]\nweight = 0\n", r"\$\.tenants\.b\.weight: must be more than 0$"),
        ("[tenants.a]\n[tenants.b]\nweight = -1\n", r"\$\.tenants\.b\.weight: must be more than 0$"),
        ("[tenants.b]\ntokens_per_day = 0\n", r"\$\.tenants\.b\.tokens_per_day: must be at least 1$"),
        ("[tenants.a]\n[tenants.b]\nmodels = [1]\n", r"\$\.tenants\.b\.models\[0\]: expected a string"),
        ("[tenants.a]\n[tenants.b]\nquota = 1\n", r"\$\.tenants\.b\.quota: there is no such field$"),
        ("[tenants]\na = {}\nb = 3\n", r"\$\.tenants\.b: expected an object, got a whole number$"),
        ('[tenants.a]\n[tenants."b.c"]\n', r"'b\.c'$"),
        ('[tenants."a\\n"]\n', r"'a\\n'$"),
        ("[tenants.default]\n", r"'default'$"),
        ("tenants = 3\n", r"\$\.tenants: expected an object, got a whole number$"),
    ],
)
def test_what_is_wrong_with_a_tenant_is_told_by_its_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(file(tmp_path, text))


JUDGE = """
[endpoints.gpu-1]
url = "http://gpu-1:8000"

[endpoints.rm-1]
url = "http://rm-1:8000"
kind = "vllm"

[judges.reward]
endpoint = "rm-1"
model = "org/rm"
kind = "classify"
"""


def test_a_judge_comes_from_the_file(tmp_path: Path) -> None:
    """With an endpoint of its own; in front of simulated models, which have every route, wherever they are."""
    judge = load(file(tmp_path, JUDGE)).judges["reward"]
    assert (judge.endpoint, judge.model, judge.kind, judge.timeout_s) == ("rm-1", "org/rm", "classify", 30.0)
    simulated = load({**file(tmp_path, JUDGE), "AGENT_TYPE": "mock"}).judges["reward"]
    assert (simulated.endpoint, simulated.model, simulated.kind) == (None, None, "classify")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('endpoint = "rm-1"', 'endpoint = "rm-2"', r"judges\.reward\.endpoint: no \[endpoints\.rm-2\]"),
        ('kind = "vllm"', 'kind = "openai"', r"judges\.reward\.endpoint: .* is of kind openai"),
        ('kind = "classify"', 'kind = "rerank"', r"judges\.reward\.kind: expected one of classify, "),
        ('kind = "classify"', 'kind = "classify"\ntimeout_s = 0', r"judges\.reward\.timeout_s"),
        ('kind = "classify"', 'kind = "classify"\ntimeout_s = inf', r"judges\.reward\.timeout_s"),
        ('kind = "classify"', 'kind = "classify"\nweight = 2', r"judges\.reward\.weight: there is no such field"),
        ("[judges.reward]", '[judges."Re ward"]', "Re ward"),
        ('[endpoints.gpu-1]\nurl = "http://gpu-1:8000"', "", r"judges\.reward\.endpoint: .* no other endpoint is left"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_by_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Each error names the field."""
    assert old in JUDGE
    with pytest.raises(ConfigError, match=said):
        load(file(tmp_path, JUDGE.replace(old, new)))


def test_a_judge_needs_its_kind(tmp_path: Path) -> None:
    """Nobody can guess by which route a server answers."""
    with pytest.raises(ConfigError, match=r"judges\.reward\.kind: must be given"):
        load(file(tmp_path, JUDGE.replace('kind = "classify"', "")))


@pytest.mark.parametrize("name", ["count", "min", "max"])
def test_more_actors_than_a_pool_can_list_are_refused(tmp_path: Path, name: str) -> None:
    """Each has a name, and a list of a thousand million takes all memory."""
    with pytest.raises(ConfigError, match=rf"workers\.{name}: must be at most 10000$"):
        load(file(tmp_path, f"[workers]\n{name} = 1000000000"))
