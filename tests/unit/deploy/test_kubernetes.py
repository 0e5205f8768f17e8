"""The base for Kubernetes as it is written: the API's own schemas, and by hand what no schema says."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.secret_files import SECRETS, file_of
from tests.support.repository.deploy import (
    BASE,
    KUBERNETES,
    NATS,
    PASSWORDS,
    ROOT,
    documents,
    environment,
    kustomization,
    manifests,
    mounted_secrets,
    needed,
    one,
    pods,
    templates,
    validate,
)

KUBERNETES_VERSIONS = ("1.30", "1.35")
GRACE_S = {"nats": 60, "ray/head": 60, "ray/agents": 60}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_are_valid_kubernetes(version: str) -> None:
    """By the API's own schemas, strictly; the pods of the RayCluster too, whose own schema no package has."""
    for manifest in manifests():
        if manifest["kind"] != "RayCluster":
            validate(manifest, version)
    for name, template in templates().items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.replace("/", "-"), **template["metadata"]}}
        validate({**pod, "spec": template["spec"]}, version)


def test_schema_would_catch_a_slip() -> None:
    """The check above is no formality: an unknown field is refused."""
    package = needed("kubernetes_validate")
    manifest = one("Deployment", "collector")
    manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(package.ValidationError):
        validate(manifest)


def test_ray_cluster_has_the_fields_of_kuberay() -> None:
    """By hand, after the API reference of KubeRay 1.6: token authentication, an autoscaled group, the project's Ray."""
    cluster = one("RayCluster", "ray")
    assert cluster["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    groups = {"headGroupSpec", "workerGroupSpecs"}
    assert spec.keys() == groups | {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"}
    assert spec["authOptions"] == {"mode": "token"}
    options = {"version", "upscalingMode", "idleTimeoutSeconds", "resources", "securityContext"}
    assert spec["autoscalerOptions"].keys() <= options
    assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (group,) = spec["workerGroupSpecs"]
    # `replicas` is the autoscaler's to write.
    assert group.keys() == {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert 0 < group["minReplicas"] < group["maxReplicas"]
    for params in (spec["headGroupSpec"]["rayStartParams"], group["rayStartParams"]):
        assert all(isinstance(value, str) for value in params.values())
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = (requirement for requirement in requirements if requirement.startswith("ray"))
    assert f">={spec['rayVersion'].rsplit('.', 1)[0]}," in ray


@pytest.mark.parametrize("name", ["ray/head", "ray/agents"])
def test_ray_ends_by_itself_before_it_is_killed(name: str) -> None:
    """Ray's own drain, which waits for actors that never end, is shorter than the time until SIGKILL."""
    variables = {each["name"]: each.get("value") for each in pods()[name]["containers"][0]["env"]}
    drain_s = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] or 0)
    assert 0 < drain_s < pods()[name]["terminationGracePeriodSeconds"] / 2


def test_everything_in_the_base_is_applied() -> None:
    """Every file is a resource. The namespace is not: `kubectl delete -k` would take Secrets and volumes with it."""
    apart = {"kustomization.yaml", "name-references.yaml"}
    files = {path.name for path in BASE.glob("*.yaml")} - apart
    assert files == set(kustomization(BASE)["resources"]) - {"../../nats"}
    assert kustomization(KUBERNETES)["resources"] == ["base"]
    (namespace,) = documents(KUBERNETES / "namespace.yaml")
    assert namespace["metadata"]["name"] == kustomization(BASE)["namespace"]
    claims = one("StatefulSet", "nats")["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert claims == {"whenDeleted": "Retain", "whenScaled": "Retain"}


@pytest.mark.parametrize("name", sorted(templates()))
def test_each_pod_is_restricted_probed_and_bounded(name: str) -> None:
    """The pod security standard `restricted`, probes, requests, a memory limit, time to end; what it mounts exists."""
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["terminationGracePeriodSeconds"] == GRACE_S.get(name, 30)
    # Ray's autoscaler, in the head, is the only one that talks to Kubernetes.
    assert pod.get("automountServiceAccountToken", True) is (name == "ray/head")
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    claims = {"data"} if name == "nats" else set()
    for container in pod["containers"] + pod.get("initContainers", []):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"].get("readOnlyRootFilesystem", False) is (name != "vllm")
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes.keys() | claims
    for container in pod["containers"]:
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
    generators = kustomization(BASE)["configMapGenerator"] + kustomization(NATS)["configMapGenerator"]
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


@pytest.mark.parametrize("name", ["dispatcher", "collector", "nats", "ray/agents", "vllm"])
def test_pods_are_spread_over_zones(name: str) -> None:
    """Where there are several; the constraint counts the pods that it stands in."""
    (spread,) = pods()[name]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", "ScheduleAnyway")
    labels = templates()[name]["metadata"]["labels"] | {"ray.io/group": "agents"}
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_budget_of_ray_allows_one_disruption_at_the_smallest_size() -> None:
    """A minimum, in pods: a RayCluster has no scale subresource, from which a maximum would be counted."""
    spec = one("PodDisruptionBudget", "ray")["spec"]
    (group,) = one("RayCluster", "ray")["spec"]["workerGroupSpecs"]
    assert spec.keys() == {"minAvailable", "selector"}
    assert spec["minAvailable"] == 1 + group["minReplicas"] - 1


def test_nats_is_a_cluster_of_three() -> None:
    """As many servers as replicas of a stream, as many routes, never two on a node, never two away at once."""
    nodes = one("StatefulSet", "nats")
    assert nodes["spec"]["replicas"] == 3
    variables = {each["name"]: each.get("value") for each in pods()["nats"]["containers"][0]["env"]}
    for number in range(3):
        host = f"nats-{number}.{nodes['spec']['serviceName']}"
        assert variables[f"NATS_ROUTE_{number}"] == f"nats://route:$(NATS_ROUTE_PASSWORD)@{host}:6222"
    named = set(re.findall(r"\$(NATS_ROUTE_\d)", (NATS / "nats-cluster.conf").read_text()))
    assert named | {"SERVER_NAME"} == variables.keys()
    assert one("Service", nodes["spec"]["serviceName"])["spec"]["clusterIP"] == "None"
    assert one("PodDisruptionBudget", "nats")["spec"]["maxUnavailable"] == 1
    affinity = nodes["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    assert affinity["requiredDuringSchedulingIgnoredDuringExecution"]


SECRETS_OF = {
    "dispatcher": {("nats-users", "NATS_CONTROL_PASSWORD"), ("ray", "auth_token")},
    "collector": {("nats-users", "NATS_CONTROL_PASSWORD")},
    "ray/head": set[tuple[str, str]](),
    "ray/agents": {("nats-users", "NATS_WORKER_PASSWORD"), ("vllm", "VLLM_API_KEY")},
}
"""All that each of the fleet's own pods is given; KubeRay hands Ray's token to the nodes that it makes."""


@pytest.mark.parametrize("name", SECRETS_OF)
def test_each_pod_has_the_secrets_that_it_needs_as_files(name: str) -> None:
    """None in the environment, which children inherit and which is read once; each file is one that a setting names."""
    pod = pods()[name]
    mounted = mounted_secrets(pod)
    assert set(mounted.values()) == SECRETS_OF[name]
    assert len([volume for volume in pod["volumes"] if "secret" in volume]) == len(mounted)
    variables = pod["containers"][0].get("env", [])
    assert not [each for each in variables if "valueFrom" in each]
    named = {each["name"]: each["value"] for each in variables if each.get("value", "").startswith("/run/")}
    assert set(named.values()) == mounted.keys()
    assert named.keys() <= {*map(file_of, SECRETS), "RAY_AUTH_TOKEN_PATH"}
    for volume in pod["volumes"]:
        assert volume.get("secret", {"defaultMode": 0o440})["defaultMode"] == 0o440


def test_secrets_and_services_that_are_used_exist() -> None:
    """Secrets are in the example, hosts are services; the Secret and the head service that KubeRay makes aside."""
    secrets = [each for each in manifests() if each["kind"] == "Secret"]
    known = {(secret["metadata"]["name"], key) for secret in secrets for key in secret["stringData"]}
    for pod in pods().values():
        assert set(mounted_secrets(pod).values()) <= known | {("ray", "auth_token")}
        for variable in pod["containers"][0].get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert (reference["name"], reference["key"]) in known | {("ray", "auth_token")}
    assert {name for secret, name in known if secret == "nats-users"} == PASSWORDS.keys()
    services = {each["metadata"]["name"] for each in manifests() if each["kind"] == "Service"} | {"ray-head-svc"}
    for place in ("kubernetes/dispatcher", "kubernetes/ray/agents"):
        values = " ".join(environment(place).values())
        assert set(re.findall(r"(?://|@|=|\s|^)([a-z-]+):\d{4}", values)) <= services


def allowed(policy: str) -> list[Any]:
    """Labels of the pods that a policy lets in."""
    rules = one("NetworkPolicy", policy)["spec"]["ingress"]
    return [peer["podSelector"]["matchLabels"] for rule in rules for peer in rule["from"]]


def test_the_head_reaches_neither_nats_nor_models() -> None:
    """It may write to Kubernetes; so it is let in nowhere else. Only its own kind of label would admit it."""
    for policy in ("nats", "vllm"):
        for labels in allowed(policy):
            assert labels.keys() <= {"app.kubernetes.io/name", "deliberation-fleet/client", "ray.io/group"}
            assert labels.get("ray.io/group", "agents") == "agents"


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
