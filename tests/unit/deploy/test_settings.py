"""What containers are told: every variable is read by somebody, every command and argument exists."""

import re
from pathlib import Path

import pytest

from fleet import config
from tests.support.repository.deploy import (
    BASE,
    DEPLOY,
    KUBERNETES,
    PASSWORDS,
    PLACES,
    ROOT,
    compose,
    documents,
    environment,
    one,
    pods,
)

NOT_SETTINGS = {
    "FLEET_CONFIG",
    "FLEET_LOG",
    "HOME",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S",
    "RAY_ROTATION_BACKUP_COUNT",
    "RAY_ROTATION_MAX_BYTES",
    *PASSWORDS,
}


@pytest.mark.parametrize("place", PLACES)
def test_settings_are_settings(place: str) -> None:
    """Every variable is one that the fleet, or Ray, reads; and the fleet accepts them together with their TOML file."""
    variables = environment(place)
    known = set(config._NAMES) | NOT_SETTINGS
    assert variables.keys() <= known
    folder = DEPLOY if place.startswith("compose/") else BASE
    assert variables["FLEET_CONFIG"] == "/etc/fleet/fleet.toml"
    settings = config.load({**variables, "FLEET_CONFIG": str(folder / "fleet.toml")})
    user = "worker" if PLACES[place].startswith("ray") else "control"
    assert (settings.nats_url, settings.nats_user, settings.nats_password) == ("nats://nats:4222", user, "secret")
    assert settings.agent_type == "vllm"
    assert settings.workers.num_cpus > 0, "actors would be placed on nodes without CPUs"
    assert settings.limits.replicas == (1 if folder == DEPLOY else 3)


def test_variables_that_are_no_settings_are_read_somewhere() -> None:
    """The fleet's own: a name that nothing reads would do nothing, silently."""
    sources = "\n".join(path.read_text() for path in (ROOT / "fleet").rglob("*.py"))
    for name in NOT_SETTINGS:
        assert not name.startswith("FLEET_") or f'"{name}"' in sources


def test_components_are_started_as_fleet_commands() -> None:
    """`fleet dispatcher`, on a Ray node of its own, and `fleet collector`; nothing else runs them."""
    services = compose()["services"]
    assert services["dispatcher"]["command"] == ["with-ray-node", "fleet", "dispatcher"]
    assert services["collector"]["command"] == ["fleet", "collector"]
    assert pods()["dispatcher"]["containers"][0]["args"] == ["with-ray-node", "fleet", "dispatcher"]
    assert pods()["collector"]["containers"][0]["args"] == ["fleet", "collector"]
    assert services["simulator"]["command"][:3] == ["python", "-m", "workers.simulator"]


SIMULATOR = KUBERNETES / "components" / "simulator" / "simulator.yaml"


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_simulator_accepts_its_arguments(where: str) -> None:
    """They are parsed by the simulator itself."""
    from workers.simulator.server import parse_arguments

    if where == "compose":
        command = compose()["services"]["simulator"]["command"]
    else:
        command = pods(documents(SIMULATOR))["simulator"]["containers"][0]["args"]
    assert command[:3] == ["python", "-m", "workers.simulator"]
    parsed = parse_arguments(command[3:])
    assert (parsed.host, parsed.port) == ("0.0.0.0", 8000)


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_vllm_runs_with_what_the_fleet_relies_on(where: str) -> None:
    """Priorities and cached token counts are off by default."""
    service, container = compose()["services"]["vllm"], pods()["vllm"]["containers"][0]
    arguments = service["command"] if where == "compose" else container["args"]
    assert {"--enable-prompt-tokens-details", "--scheduling-policy=priority"} <= set(arguments)


@pytest.mark.parametrize("file", [BASE / "fleet.toml", KUBERNETES / "components" / "small" / "fleet.toml"])
def test_worker_group_has_room_for_the_actors(file: Path) -> None:
    """At its smallest the group holds the pool as configured; the head and the dispatchers offer nothing."""
    workers = config.load({"FLEET_CONFIG": str(file)}).workers
    spec = one("RayCluster", "ray")["spec"]
    (group,) = spec["workerGroupSpecs"]
    pods_at_least = 1 if file.parent.name == "small" else group["minReplicas"]
    assert pods_at_least * int(group["rayStartParams"]["num-cpus"]) >= workers.count * workers.num_cpus
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert re.search(r"ray start .*--num-cpus=0 ", (DEPLOY / "with-ray-node").read_text())
