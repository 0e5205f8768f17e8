"""What grows with the work: workers on nodes that take minutes to come, and copies of a model server by an HPA.

Each test brings a fleet of its own. The one of the HPA brings an adapter for external metrics, too: none may be there.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trustme

from tests.kubernetes import adapter
from tests.kubernetes.cluster import (
    MONITORING,
    SETTINGS,
    Object,
    all_ready,
    apply,
    as_client,
    ask,
    dispatchers,
    ends,
    kubectl,
    namespace,
    objects,
    overlay,
    pods,
    probe_restarts,
    readiness,
    remove,
    run_pod,
    until,
)
from tests.support.client.asking import Asking

pytestmark = pytest.mark.timeout(1800)
LOWEST, HIGHEST = 2, 8
FIXED, POOL = "count = 4\ncalls_per_worker = 256\n", f"min = {LOWEST}\nmax = {HIGHEST}\ncalls_per_worker = 2\n"
CPUS_OF_A_NODE = 2
NODE_COMES_AFTER_S = 150
ASKED_AT_ONCE = 6
"""Eighteen calls at once: work for more workers than there may be."""
WORKERS, COMPONENTS = "ray.io/group=agents", ("dispatcher", "collector")


@contextmanager
def no_room() -> Iterator[None]:
    """No node takes a new pod, as on a cluster whose next node has yet to come."""
    found = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    nodes = [each["metadata"]["name"] for each in found if not each["spec"].get("unschedulable")]
    kubectl("cordon", *nodes)
    try:
        yield
    finally:
        kubectl("uncordon", *nodes)


def workers() -> dict[str, int]:
    """Those that answer -> calls that they have done."""
    told = as_client("fleet", "status", "--json", user="operator").stdout
    return {each["name"]: each["done"] for each in json.loads(told)["workers"]} if told else {}


def nothing_to_tell(dispatcher: str) -> bool:
    """It is ready, and has as many workers as are wanted."""
    told = readiness(dispatcher)
    return bool(told.get("ready")) and "workers" not in told["details"]


def restarts() -> dict[str, int]:
    """Of each container of ours."""
    return {
        f"{pod['metadata']['name']}/{each['name']}": each["restartCount"]
        for name in COMPONENTS
        for pod in pods(f"app.kubernetes.io/name={name}")
        for each in pod["status"]["containerStatuses"]
    }


def waits_for_a_node() -> bool:
    return any(pod["status"]["phase"] == "Pending" and "nodeName" not in pod["spec"] for pod in pods(WORKERS))


def test_workers_come_when_their_node_does(tmp_path: Path) -> None:
    """The pool grows, and no node has room for minutes: questions are answered by the workers that there are,
    dispatchers stay ready and tell how many answer, nothing is restarted. The node comes, and what runs there works.
    """
    settings = SETTINGS.replace(FIXED, POOL)
    assert settings != SETTINGS
    kustomization = overlay(tmp_path, "simulator", settings=settings)
    try:
        apply(kustomization)
        until(lambda: len(workers()) == LOWEST, "not as many workers as there are at least")
        before, killed, present = restarts(), probe_restarts(), len(pods(WORKERS))
        room = present * CPUS_OF_A_NODE
        assert room < HIGHEST, f"{present} pods have room for all"
        fewer = [f"{answer} of {HIGHEST} workers answer" for answer in range(1, room + 1)]
        with Asking(ask, at_once=ASKED_AT_ONCE) as asking:
            with no_room():
                until(waits_for_a_node, "no pod waits for a node")
                until(lambda: len(workers()) == room, "there is room on the nodes of Ray, and nobody takes it")
                first, answered, end = workers(), len(asking.answered), time.monotonic() + NODE_COMES_AFTER_S
                while time.monotonic() < end:
                    for name in dispatchers():
                        told = readiness(name)
                        assert told.get("ready"), told
                        assert told["details"].get("workers") in fewer, told
                    time.sleep(5)
                assert len(asking.answered) > answered
            until(lambda: len(pods(WORKERS)) > present and all_ready(), "the pods that waited are not ready")
            until(lambda: len(workers()) == HIGHEST, "not as many workers as are wanted")
            until(lambda: all(done for name, done in workers().items() if name not in first), "a new one does nothing")
            until(lambda: all(map(nothing_to_tell, dispatchers())), "a dispatcher misses workers")
        asking.check(ends())
        assert restarts() == before
        assert probe_restarts() == killed
    finally:
        remove(kustomization)


# --- copies of a model server -------------------------------------------------------------------------------------


AGENTS, MANY_AT_ONCE = 8, 6
"""A council of eight makes 32 calls: up to 192 of them are ahead, and one server should have 64."""
ADAPTER = Path(adapter.__file__).read_text()
GROUP = "v1beta1.external.metrics.k8s.io"
COPIES = 2
TARGET = [
    {"op": "replace", "path": "/spec/scaleTargetRef/name", "value": "simulator"},
    {"op": "replace", "path": "/spec/maxReplicas", "value": COPIES},
]


@contextmanager
def external_metric() -> Iterator[None]:
    """Serves the metric to the API server, which serves it to the HPA's controller."""
    (image,) = {each["spec"]["containers"][0]["image"] for each in pods("app.kubernetes.io/name=collector")}
    addresses = [each["status"]["podIP"] for each in pods("app.kubernetes.io/name=collector")]
    issued = trustme.CA().issue_cert(f"adapter.{MONITORING}.svc")
    pem = issued.private_key_and_cert_chain_pem.bytes().decode()
    port = {"port": 443, "targetPort": 8443}
    service: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "adapter", "namespace": MONITORING}}
    service |= {"spec": {"selector": {"app": "adapter"}, "ports": [port]}}
    api: Object = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": GROUP}}
    api["spec"] = {"group": GROUP.partition(".")[2], "version": "v1beta1", "insecureSkipTLSVerify": True}
    api["spec"] |= {"groupPriorityMinimum": 100, "versionPriority": 100}
    api["spec"]["service"] = {"name": "adapter", "namespace": MONITORING}
    assert GROUP not in kubectl("get", "apiservices", "-o", "name"), "there is an adapter for external metrics already"
    with namespace(MONITORING):
        try:
            run_pod(
                MONITORING, "adapter", image, {"app": "adapter"}, command=["python", "-c", ADAPTER, pem, *addresses]
            )
            kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, api]}))
            yield
        finally:
            kubectl("delete", "apiservice", GROUP, "--ignore-not-found", check=False)
            kubectl("-n", MONITORING, "delete", "pod,service", "adapter", "--ignore-not-found", check=False)


def scaler() -> Object:
    (found,) = objects("hpa")
    return found


def condition(name: str) -> bool:
    found = scaler().get("status", {}).get("conditions", [])
    return any(each["type"] == name and each["status"] == "True" for each in found)


def copies() -> int:
    (found,) = (each for each in objects("deployments") if each["metadata"]["name"] == "simulator")
    return int(found["spec"]["replicas"])


def test_models_come_with_the_work_by_an_hpa(tmp_path: Path) -> None:
    """The component as it is, but for the name of what it scales: the simulator, as there is no GPU. A metric that is
    away changes nothing; with more work than one server should have another one comes, and nobody is sent away."""
    target = {"target": {"kind": "HorizontalPodAutoscaler", "name": "vllm"}, "patch": json.dumps(TARGET)}
    free: Object = {"target": {"kind": "Deployment", "name": "simulator"}}
    free["patch"] = json.dumps([{"op": "remove", "path": "/spec/replicas"}])
    kustomization = overlay(tmp_path, "hpa-models", "simulator", patches=[target, free])
    try:
        apply(kustomization)
        killed = probe_restarts()
        until(lambda: bool(scaler().get("status", {}).get("conditions")), "nobody looks at the autoscaler")
        assert not condition("ScalingActive"), "without a metric"
        assert copies() == 1
        with external_metric():
            until(lambda: condition("ScalingActive"), "the metric is not read")
            assert copies() == 1
            with Asking(partial(ask, agents=AGENTS), at_once=MANY_AT_ONCE) as asking:
                until(lambda: copies() == COPIES, "no other copy comes")
                until(all_ready, "the other copy is not ready")
            assert asking.lost == []
        until(lambda: not condition("ScalingActive"), "the metric is still read")
        assert copies() == COPIES
        assert probe_restarts() == killed
    finally:
        remove(kustomization)
