"""`docker-compose.yml`, read by an implementation of the specification and by hand."""

import json
import re
from typing import Any

import pytest

from tests.support.repository.deploy import DEPLOY, NATS, ROOT, compose, needed

STOPS = {"nats": "40s", "vllm": "30s", "ray-head": "60s", "dispatcher": "60s"}


def test_compose_file_is_valid_compose() -> None:
    """By an implementation of the specification that refuses keys it does not know."""
    parse = needed("compose_spec").PyCompose.from_json
    parse(with_defaults(compose())).validate()
    wrong = compose()
    wrong["services"]["nats"]["restarts"] = "always"
    with pytest.raises(ValueError, match="restarts"):
        parse(with_defaults(wrong))


def with_defaults(file: Any) -> str:
    """JSON, in which the defaults stand for the variables that have one."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", json.dumps(file))


@pytest.mark.parametrize("name", sorted(compose()["services"]))
def test_each_service_is_watched_limited_and_restarted(name: str) -> None:
    """Health check, restart policy, limits, bounded logs, an end that is waited for; and every name it uses exists."""
    file = compose()
    service = file["services"][name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert service["logging"]["options"]["max-size"]
    assert service["stop_grace_period"] == STOPS.get(name, "30s")
    assert set(service["networks"]) <= set(file["networks"])
    for other, condition in service.get("depends_on", {}).items():
        assert "healthcheck" in file["services"][other]
        assert condition["condition"] == "service_healthy"
        # A service that needs a profile may be absent.
        assert condition.get("required", True) is not bool(file["services"][other].get("profiles"))
    for volume in service.get("volumes", []):
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
        assert (ROOT / source).exists() if source.startswith("./") else source in file["volumes"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "published to every interface"


@pytest.mark.parametrize("name", sorted(compose()["services"].keys() - {"vllm"}))
def test_each_service_may_write_to_its_own_places_only(name: str) -> None:
    """A root that is read only, no capabilities, and /tmp in memory; vLLM's image is not made for that."""
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


def test_ray_ends_by_itself_before_it_is_killed() -> None:
    """Ray's own drain, which waits for actors that never end, is shorter than the time until SIGKILL."""
    head = compose()["services"]["ray-head"]
    assert int(head["environment"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < int(head["stop_grace_period"][:-1]) / 2


def test_simulator_profile_needs_no_gpu() -> None:
    """What is not behind the profile `gpu` reserves no device; the simulator answers to the same name as vLLM."""
    services = compose()["services"]
    for service in services.values():
        reserves = "devices" in service["deploy"]["resources"].get("reservations", {})
        assert reserves == (service.get("profiles") == ["gpu"])
    names = {tuple(services[name]["networks"]["fleet"]["aliases"]) for name in ("vllm", "simulator")}
    assert names == {("llm",)}


def test_every_variable_of_compose_has_a_default() -> None:
    """The one that `deploy/env.example` lists."""
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))
    listed = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    assert used == listed


def test_no_container_has_a_secret_in_its_environment() -> None:
    """Secrets are files, each where a setting of the container, or its command, reads it."""
    for name, service in compose()["services"].items():
        environ = service.get("environment", {})
        assert not [key for key in environ if key.endswith(("_PASSWORD", "_TOKEN"))], name
        assert "@" not in environ.get("NATS_URL", ""), name
        read = {value for value in environ.values() if str(value).startswith("/run/secrets/")}
        if "/run/secrets/*" not in str(service.get("command")):
            assert read == {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}, name


def test_nats_has_the_passwords_that_its_configuration_names() -> None:
    """Each file that `NATS_ACCOUNTS` may name finds its own."""
    given = {secret.upper() for secret in compose()["services"]["nats"]["secrets"]}
    tenants = {"NATS_TEAM_A_PASSWORD", "NATS_TEAM_B_PASSWORD"}
    for accounts in ("permissions.conf", "clients-apart.conf", "tenants.conf"):
        text = "".join((NATS / name).read_text() for name in {accounts, "permissions.conf"})
        wanted = given if accounts == "tenants.conf" else given - tenants
        assert set(re.findall(r"\$(NATS_\w+)", text)) == wanted
