"""Each overlay as kustomize renders it. Needs kubectl; KubeRay's own schema is used where it is beside the checkout."""

import functools
import gzip
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fleet.bench.growth import models
from fleet.local.nats_server import find_server
from fleet.observability.metrics import METRICS
from tests.support.repository.deploy import (
    COMPONENTS,
    KUBERNETES,
    LOADER,
    NATS,
    OVERLAYS,
    PASSWORDS,
    one,
    pods,
    rendered,
    validate,
)
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S

ALL = [KUBERNETES, *(KUBERNETES / "overlays" / name for name in OVERLAYS)]
CRD = KUBERNETES.parents[2] / "shared" / "data" / "ray.io_rayclusters.yaml.gz"
SLOW_START_S = 600
"""Of a model: what it downloads counts."""
OURS = ("apps/v1", "v1", "policy/v1", "networking.k8s.io/v1")


def named(path: Path) -> str:
    return path.name


def overlay(name: str) -> list[Any]:
    return rendered(KUBERNETES / "overlays" / name)


def with_component(name: str, tmp_path: Path) -> list[Any]:
    """The base and one component, as an overlay that lies somewhere else."""
    folder = KUBERNETES / "components" / name
    up = "/".join([".."] * len(tmp_path.resolve().parts[1:]))
    text = f"namespace: deliberation-fleet\nresources: [{up}{KUBERNETES}/base]\ncomponents: [{up}{folder}]\n"
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "kustomization.yaml").write_text(text)
    return rendered(tmp_path)


@some_of(1, "folder", ALL, ids=named)
def test_rendered_objects_are_valid(folder: Path) -> None:
    """By the API's own schemas, strictly; each is in the namespace, and none is the namespace itself."""
    objects = rendered(folder)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    for each in objects:
        assert each["kind"] != "Namespace"
        assert each["metadata"]["namespace"] == "deliberation-fleet"
        if each["apiVersion"] in OURS:
            validate(each)


@some_of(2, "folder", ALL, ids=named)
def test_what_pods_mount_is_there(folder: Path) -> None:
    """ConfigMaps by the name with its hash, in the RayCluster too, which kustomize does not know by itself."""
    objects = rendered(folder)
    maps = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    for name, pod in pods(objects).items():
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                assert source.get("configMapRef", {}).get("name", next(iter(maps))) in maps
            assert ":" in container["image"], "a tag that is none asks for `latest`"


@some_of(2, "folder", ALL, ids=named)
def test_ray_cluster_fits_the_schema_of_kuberay(folder: Path) -> None:
    """The CustomResourceDefinition's own schema, which is not a part of the project; unknown fields are refused."""
    schema = kuberay()
    cluster = one("RayCluster", "ray", rendered(folder))
    cluster["metadata"] = {}
    assert list(schema.iter_errors(cluster)) == []
    cluster["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    assert list(schema.iter_errors(cluster)) != []


@functools.cache
def kuberay() -> jsonschema.Draft202012Validator:
    if not CRD.exists():
        pytest.skip(f"KubeRay's CustomResourceDefinition is not at {CRD}")
    versions = yaml.load(gzip.decompress(CRD.read_bytes()), LOADER)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    return jsonschema.Draft202012Validator(close(schema))


def close(schema: Any) -> Any:
    """The schema, with every object closed to fields that it does not name, and Kubernetes' own keywords taken out."""
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.mark.parametrize("name", ["keda-models", "hpa-models"])
def test_models_are_scaled_by_what_is_coming(name: str, tmp_path: Path) -> None:
    """The autoscaler alone owns the number of copies, which share a volume. Its metrics exist, are told by several
    processes and so never summed; nobody is sent away sooner than another one starts."""
    objects = with_component(name, tmp_path)
    deployment = one("Deployment", "vllm", objects)
    validate(deployment)
    assert "replicas" not in deployment["spec"]
    assert one("PersistentVolumeClaim", "models", objects)["spec"]["accessModes"] == ["ReadWriteMany"]
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    start_s = probe["periodSeconds"] * probe["failureThreshold"]
    if name == "keda-models":
        spec = one("ScaledObject", "vllm", objects)["spec"]
        (trigger,) = spec["triggers"]
        text, behavior = trigger["metadata"]["query"], spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert spec["cooldownPeriod"] >= SLOW_START_S
    else:
        scaler = one("HorizontalPodAutoscaler", "vllm", objects)
        validate(scaler)
        spec, behavior = scaler["spec"], scaler["spec"]["behavior"]
        text = (KUBERNETES / "components" / name / "kustomization.yaml").read_text()
    assert spec["scaleTargetRef"]["name"] == "vllm"
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= SLOW_START_S
    assert start_s >= SLOW_START_S, "a start that is slower is killed"
    kinds = {metric.name: metric.kind for metric in METRICS}
    used = re.findall(r"(max|sum)\((?:rate\()?(fleet_\w+)", text)
    assert {name for _, name in used} == {"fleet_calls_ahead", "fleet_requests_waiting", "fleet_calls_expected_total"}
    assert all(how == ("max" if kinds[name] == "gauge" else "sum") for how, name in used)
    ((seconds, within),) = re.findall(r"(\d+) \* sum\(rate\(\w+\[(\d+)s\]\)\)", text)
    assert (float(seconds), float(within)) == (models.ARRIVALS_S, models.ARRIVED_IN_S), "not what was simulated"


def test_simulator_needs_no_gpu() -> None:
    """No device, no model volume, no vLLM; and what reaches vLLM reaches the simulator."""
    objects = overlay("simulator")
    assert "nvidia.com/gpu" not in yaml.safe_dump(objects)
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    assert "vllm" not in pods(objects)
    labels = one("Deployment", "simulator", objects)["spec"]["template"]["metadata"]["labels"]
    for kind, name in (("Service", "vllm"), ("NetworkPolicy", "vllm"), ("PodDisruptionBudget", "vllm")):
        spec = one(kind, name, objects)["spec"]
        selector = spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    images = {pods(objects)[name]["containers"][0]["image"] for name in ("simulator", "dispatcher", "ray/head")}
    assert len(images) == 1


@pytest.mark.parametrize("name", ["small", "kind"])
def test_small_is_one_of_each(name: str) -> None:
    """One server with one copy of a stream, and all requests together fit a small machine."""
    objects = overlay(name)
    assert {each["spec"]["replicas"] for each in objects if each["kind"] in ("Deployment", "StatefulSet")} == {1}
    assert one("StatefulSet", "nats", objects)["spec"]["template"]["spec"]["containers"][0]["args"][1].endswith(
        "single.conf"
    )
    config = next(each for each in objects if each["metadata"]["name"].startswith("fleet-config"))
    assert re.search(r"^replicas = 1\b", config["data"]["fleet.toml"], re.MULTILINE)
    requests = [
        container["resources"]["requests"]
        for place, pod in pods(objects).items()
        if place != "vllm"
        for container in pod["containers"]
    ]
    assert sum(cpus(each["cpu"]) for each in requests) <= 2
    budgets = [each["spec"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    assert all("minAvailable" not in each for each in budgets), "the only node could not be drained"


def cpus(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def test_gpu_chooses_nodes() -> None:
    """vLLM only, with everything that keeps others away and lets it in."""
    pod = pods(overlay("gpu"))["vllm"]
    assert pod["nodeSelector"]
    assert pod["tolerations"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert not [name for name, other in pods(overlay("gpu")).items() if name != "vllm" and "nodeSelector" in other]


def test_tls_is_mounted_by_all_that_talk_to_nats() -> None:
    """The files that NATS_CA, NATS_CERT and NATS_KEY name are in the Secret that is mounted there."""
    objects = overlay("tls")
    environment = next(each for each in objects if each["metadata"]["name"].startswith("fleet-environment"))["data"]
    files = {Path(environment[name]) for name in ("NATS_CA", "NATS_CERT", "NATS_KEY")}
    assert {path.name for path in files} == {"ca.crt", "tls.crt", "tls.key"}
    for name in ("dispatcher", "collector", "ray/agents", "nats"):
        pod = pods(objects)[name]
        (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "tls")
        assert {str(path.parent) for path in files} == {mount["mountPath"]}
        (volume,) = (each for each in pod["volumes"] if each["name"] == "tls")
        assert volume["secret"]["secretName"] == ("nats-server-tls" if name == "nats" else "nats-client-tls")
        assert volume["secret"]["defaultMode"] == 0o440
    assert "tls" not in {volume["name"] for volume in pods(objects)["ray/head"].get("volumes", [])}


def test_tls_changes_nothing_else_of_the_cluster() -> None:
    """The block `cluster` is written twice, since the second one replaces the first: they are the same but for TLS."""

    def block(path: Path) -> list[str]:
        text = re.sub(r"\s*#.*", "", path.read_text())
        found = re.search(r"^cluster \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
        assert found
        inner = re.sub(r"^  tls \{.*?^  \}\n", "", found[1], flags=re.MULTILINE | re.DOTALL)
        return [line for line in inner.split("\n") if line]

    assert block(NATS / "nats-cluster.conf") == block(KUBERNETES / "components" / "tls" / "nats-tls.conf")


@pytest.mark.parametrize("component", [None, "clients-apart", "tenants"])
def test_accounts_are_those_that_were_chosen(component: str | None, tmp_path: Path) -> None:
    """NATS itself starts with the rendered files, and `client` is in the account that was meant."""
    objects = rendered(KUBERNETES) if component is None else with_component(component, tmp_path / "overlay")
    (config,) = (each["data"] for each in objects if each["metadata"]["name"].startswith("nats-config"))
    for name, text in config.items():
        (tmp_path / name).write_text(text)
    for file in ("nats-server.conf", "nats-single.conf"):
        done = subprocess.run(
            [find_server(), "-t", "-c", str(tmp_path / file)],
            env={
                **PASSWORDS,
                **{f"NATS_ROUTE_{number}": f"nats://h{number}:6222" for number in range(3)},
                "SERVER_NAME": "n",
            },
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert config["accounts.conf"].split()[-1] == f"{component or 'permissions'}.conf"


def test_example_takes_images_from_one_registry() -> None:
    """Those of the RayCluster and of init containers, too."""
    found = {
        container["image"]
        for pod in pods(overlay("example")).values()
        for container in pod["containers"] + pod.get("initContainers", [])
    }
    assert all(image.startswith("registry.example.com/") for image in found)


@some_of(1, "name", COMPONENTS)
def test_each_component_can_be_added_to_the_base(name: str, tmp_path: Path) -> None:
    """It renders, and is valid."""
    for each in with_component(name, tmp_path):
        if each["apiVersion"] in (*OURS, "admissionregistration.k8s.io/v1"):
            validate(each)


def test_monitoring_scrapes_ports_that_exist(tmp_path: Path) -> None:
    """Each PodMonitor names a port of the pods that it selects."""
    objects = with_component("monitoring", tmp_path)
    expected = {
        "fleet": ["dispatcher", "collector"],
        "nats": ["nats"],
        "ray": ["ray/head", "ray/agents"],
        "vllm": ["vllm"],
    }
    monitors = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "PodMonitor"}
    assert monitors.keys() == expected.keys()
    for name, places in expected.items():
        (endpoint,) = monitors[name]["podMetricsEndpoints"]
        for place in places:
            ports = {port["name"] for each in pods(objects)[place]["containers"] for port in each["ports"]}
            assert endpoint["port"] in ports
