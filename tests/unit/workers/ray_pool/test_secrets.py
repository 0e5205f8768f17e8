"""What is secret stays where it is needed."""

import pickle
from pathlib import Path

import pytest
from msgspec import structs

from fleet.config import Settings, load, without_userinfo
from fleet.local.data_dir import recall, remember
from fleet.own_secrets import with_own_secrets
from workers.ray_pool.pool import RayPool

SECRETS = {
    "NATS_URL": "nats://control:secret-1@nats:4222,nats://secret-2@nats-2:4222",
    "NATS_CREDS": "/run/secret-3",
    "NATS_NKEY_SEED_FILE": "/run/secret-4",
    "VLLM_URL": "http://team:secret-5@gpu:8000/v1,http://gpu-2:8000",
    "VLLM_API_KEY": "secret-6",
}


def test_actors_are_given_no_secret() -> None:
    """Ray keeps what they are made with: whoever breaks a worker, or has Ray's token, can read it."""
    pool = RayPool(load(SECRETS))
    handed = pickle.dumps(pool.actors.arguments(pool.names.own[0]))
    assert b"secret-" not in handed
    assert b"nats://nats:4222,nats://nats-2:4222" in handed
    assert b"gpu-2" in handed
    assert b"secret" not in pool.names.own[0].encode()


def test_the_node_supplies_them(tmp_path: Path) -> None:
    """Its environment, or the file that this names; what it has none of is left as it was."""
    given = RayPool(load(SECRETS)).actors.arguments("any")[3]
    own = {"NATS_URL": "nats://worker:own@nats:4222", "VLLM_API_KEY": "key", "VLLM_URL": SECRETS["VLLM_URL"]}
    found = with_own_secrets(given, own)
    assert (found.nats_url, found.vllm_api_key) == (own["NATS_URL"], "key")
    assert found.vllm_urls == load(SECRETS).vllm_urls
    (tmp_path / "fleet.toml").write_text('VLLM_API_KEY = "of the file"\n')
    found = with_own_secrets(given, {"FLEET_CONFIG": str(tmp_path / "fleet.toml")})
    assert (found.nats_url, found.vllm_api_key) == (given.nats_url, "of the file")


def test_the_node_supplies_what_lies_in_files(tmp_path: Path) -> None:
    """A dispatcher's files are not handed on, nor what is in them; a worker reads its own."""
    for name in ("control", "worker", "key"):
        (tmp_path / name).write_text(f"secret-{name}\n")
    control = {"NATS_URL": "nats://nats", "NATS_USER": "control", "NATS_PASSWORD_FILE": str(tmp_path / "control")}
    given = RayPool(load({**control, "VLLM_URL": "http://gpu", "VLLM_API_KEY_FILE": str(tmp_path / "key")}))
    handed = given.actors.arguments("any")
    assert b"secret-" not in pickle.dumps(handed)
    assert str(tmp_path).encode() not in pickle.dumps(handed)
    own = {
        "NATS_USER": "worker",
        "NATS_PASSWORD_FILE": str(tmp_path / "worker"),
        "VLLM_API_KEY_FILE": str(tmp_path / "key"),
    }
    found = with_own_secrets(handed[3], own)
    assert (found.nats_url, found.nats_user, found.nats_password) == ("nats://nats", "worker", "secret-worker")
    assert found.model_servers["http://gpu"].key({}) == "secret-key"


@pytest.mark.parametrize("name", SECRETS)
def test_actors_are_named_by_their_fleet_and_replaced_with_their_credentials(name: str) -> None:
    """A rotated credential leaves no worker at work under another name."""
    before, after = RayPool(load(SECRETS)), RayPool(load({**SECRETS, name: SECRETS[name].replace("secret", "rotated")}))
    assert before.names.own == after.names.own == ["fleet-worker-fleet-0"]
    assert before.actors.fingerprint != after.actors.fingerprint
    assert RayPool(load({**SECRETS, "FLEET_NAME": "two"})).names.own == ["fleet-worker-two-0"]


def test_settings_that_are_the_same_make_the_same_workers() -> None:
    settings = load(SECRETS)
    assert (
        RayPool(settings).actors.fingerprint
        == RayPool(structs.replace(settings)).actors.fingerprint
        != RayPool(Settings())
    )


@pytest.mark.parametrize(
    ("urls", "shown"),
    [
        ("nats://user:p@ss@host:4222", "nats://host:4222"),
        ("nats://user:p/a?s#s@host:4222", "nats://host:4222"),
        ("nats://token@host", "nats://host"),
        ("user:password@host:4222", "host:4222"),
        ("nats://u:a@one,nats://u:b@two:4222", "nats://one,nats://two:4222"),
        ("one:4222,two:4222", "one:4222,two:4222"),
        ("https://user:password@host/v1/@model", "https://host/v1/@model"),
        ("http://host/v1/@model", "http://host/v1/@model"),
        ("wss://u:p@[::1]:443", "wss://[::1]:443"),
    ],
)
def test_userinfo_is_never_shown(urls: str, shown: str) -> None:
    """Whatever a password is made of."""
    assert without_userinfo(urls) == shown


def test_what_is_remembered_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Also where the file was there before, and anybody could read it."""
    for name in ("fleet.json", "fleet.json.new"):
        (tmp_path / name).write_text("{}")
        (tmp_path / name).chmod(0o644)
    remember(tmp_path, {"nats_url": "nats://u:p@host"})
    assert (tmp_path / "fleet.json").stat().st_mode & 0o777 == 0o600
    assert recall(tmp_path) == {"nats_url": "nats://u:p@host"}
