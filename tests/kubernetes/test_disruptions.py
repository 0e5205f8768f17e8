"""The fleet on the cluster that KUBECONFIG names, while its pods are deleted, rolled, scaled and drained.

`make test-kubernetes`. Needs kubectl, KubeRay, a network plugin that enforces NetworkPolicies, a default StorageClass,
and the fleet's image on the nodes. FLEET_KUSTOMIZATION is what is applied: the overlay `simulator` by default. The
namespace must not exist before, and is deleted at the end.
"""

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = os.environ.get("FLEET_KUSTOMIZATION", str(KUBERNETES / "overlays" / "simulator"))
NAMESPACE, CLIENTS = "deliberation-fleet", "deliberation-fleet-clients"
READY_WITHIN_S, ASKED_WITHIN_S, EACH_WITHIN_S = 900, 300, 600

pytestmark = [
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
    pytest.mark.timeout(1800),
]


def kubectl(*arguments: str, stdin: str | None = None, timeout_s: int = 120, check: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def ours(*arguments: str, timeout_s: int = 120) -> str:
    return kubectl("-n", NAMESPACE, *arguments, timeout_s=timeout_s)


def pods() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ours("get", "pods", "-o", "json"))["items"]
    return found


def until(fact: Callable[[], bool], what: str, within_s: int = READY_WITHIN_S) -> None:
    end = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < end, f"{what}\n{ours('get', 'pods', '-o', 'wide')}"
        time.sleep(2)


def all_ready() -> bool:
    """Every workload has the pods that it wants, and every pod is ready."""
    cluster = json.loads(ours("get", "raycluster", "ray", "-o", "json")).get("status", {})
    if cluster.get("state") != "ready" or "readyWorkerReplicas" not in cluster:
        return False
    for each in json.loads(ours("get", "deployments,statefulsets", "-o", "json"))["items"]:
        status, wanted = each.get("status", {}), each["spec"]["replicas"]
        current = status.get("observedGeneration") == each["metadata"]["generation"]
        if not current or status.get("readyReplicas", 0) != wanted or status.get("updatedReplicas", 0) != wanted:
            return False
    return all(ready(pod) for pod in pods())


def ready(pod: dict[str, object]) -> bool:
    conditions = pod["status"].get("conditions", [])  # type: ignore[attr-defined]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.fixture(scope="module")
def fleet() -> Iterator[None]:
    """The fleet, ready, and a pod of a client in another namespace."""
    assert NAMESPACE not in kubectl("get", "namespaces", "-o", "name"), f"the namespace {NAMESPACE} exists already"
    try:
        kubectl("apply", "-f", str(KUBERNETES / "namespace.yaml"))
        example = str(KUBERNETES / "secrets.example.yaml")
        filled = subprocess.run([ROOT / "deploy/fill-secrets", example], capture_output=True, text=True, check=True)
        kubectl("apply", "-f", "-", stdin=filled.stdout)
        kubectl("apply", "-k", KUSTOMIZATION)
        until(all_ready, "not all is ready")
        kubectl("create", "namespace", CLIENTS)
        objects = yaml.safe_load_all(kubectl("kustomize", KUSTOMIZATION))
        (collector,) = (
            one for one in objects if one["kind"] == "Deployment" and one["metadata"]["name"] == "collector"
        )
        image = collector["spec"]["template"]["spec"]["containers"][0]["image"]
        label = "--labels=deliberation-fleet/client=true"
        kubectl("-n", CLIENTS, "run", "client", label, f"--image={image}", "--command", "--", "sleep", "infinity")
        kubectl("-n", CLIENTS, "wait", "--for=condition=Ready", "pod/client", "--timeout=120s", timeout_s=130)
        yield
    finally:
        kubectl("delete", "namespace", CLIENTS, "--ignore-not-found", timeout_s=300, check=False)
        kubectl("delete", "-k", KUSTOMIZATION, "--ignore-not-found", timeout_s=300, check=False)
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout_s=300, check=False)


def ask(question: str) -> subprocess.CompletedProcess[str]:
    secret = json.loads(ours("get", "secret", "nats-users", "-o", "json"))["data"]["NATS_CLIENT_PASSWORD"]
    url = f"NATS_URL=nats://client:{base64.b64decode(secret).decode()}@nats.{NAMESPACE}:4222"
    command = ["env", "HOME=/tmp", url, "timeout", str(ASKED_WITHIN_S), "fleet", "ask", question]
    return subprocess.run(
        ["kubectl", "-n", CLIENTS, "exec", "client", "--", *command],
        capture_output=True,
        text=True,
        timeout=ASKED_WITHIN_S + 60,
        check=False,
    )


class Asking:
    """Asks one question after the other until told to stop; keeps those that got no answer."""

    def __init__(self) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            done = ask(f"Design rate limiter number {self.answered}")
            if done.returncode == 0:
                self.answered += 1
            else:
                self.lost.append(f"exit {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
                return


def delete_head() -> None:
    ours("delete", "pod", "-l", "ray.io/node-type=head", "--wait=true", timeout_s=180)


def delete_worker() -> None:
    name = ours("get", "pods", "-l", "ray.io/group=agents", "-o", "jsonpath={.items[0].metadata.name}")
    ours("delete", "pod", name, "--wait=true", timeout_s=180)


def roll_components() -> None:
    ours("rollout", "restart", "deployment/dispatcher", "deployment/collector")
    for name in ("dispatcher", "collector"):
        ours("rollout", "status", f"deployment/{name}", f"--timeout={EACH_WITHIN_S}s", timeout_s=EACH_WITHIN_S + 10)


def roll_nats() -> None:
    ours("rollout", "restart", "statefulset/nats")
    ours("rollout", "status", "statefulset/nats", f"--timeout={EACH_WITHIN_S}s", timeout_s=EACH_WITHIN_S + 10)


def scale() -> None:
    for count in ("3", "1", "2"):
        ours("scale", "deployment/dispatcher", "deployment/collector", f"--replicas={count}")
        until(all_ready, f"not all is ready after scaling to {count}")


def drain() -> None:
    node = ours("get", "pods", "-l", "ray.io/node-type=head", "-o", "jsonpath={.items[0].spec.nodeName}")
    selector = "--pod-selector=app.kubernetes.io/name!=nats,run!=client"
    arguments = ["--ignore-daemonsets", "--delete-emptydir-data", selector, f"--timeout={EACH_WITHIN_S}s"]
    try:
        kubectl("drain", node, *arguments, timeout_s=EACH_WITHIN_S + 10)
    finally:
        kubectl("uncordon", node)


@pytest.mark.usefixtures("fleet")
def test_a_question_is_answered() -> None:
    """From another namespace, as the user `client`; without the client's label nobody is let in."""
    done = ask("Design a rate limiter")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("disrupt", [delete_worker, delete_head, roll_components, scale, roll_nats, drain])
def test_nothing_is_lost(disrupt: Callable[[], None]) -> None:
    """Every question asked meanwhile is answered, all is ready again afterwards, and no probe restarted ours."""
    with Asking() as asking:
        disrupt()
        until(all_ready, "not all is ready again")
    assert asking.lost == []
    assert asking.answered > 0
    assert ask("And now?").returncode == 0
    assert "failed liveness probe" not in ours("get", "events")


@pytest.mark.usefixtures("fleet")
def test_what_holds_data_is_not_deleted_with_the_rest() -> None:
    """`kubectl delete -k` leaves the namespace, the Secrets and the volumes of NATS; a second apply finds them."""
    kubectl("delete", "-k", KUSTOMIZATION, timeout_s=300)
    until(lambda: not pods(), "pods are left")
    assert "secret/nats-users" in ours("get", "secrets", "-o", "name")
    assert "persistentvolumeclaim/data-nats-0" in ours("get", "pvc", "-o", "name")
    kubectl("apply", "-k", KUSTOMIZATION)
    until(all_ready, "not all is ready again")
    assert ask("Is it still you?").returncode == 0
