"""What the tests do with the cluster that KUBECONFIG names: apply, wait, look, ask."""

import base64
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.support.client.asking import ASKED_WITHIN_S, COUNT_ENDS
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
SETTINGS = (KUBERNETES / "base" / "fleet.toml").read_text()
NAMESPACE, CLIENTS, MONITORING = "deliberation-fleet", "deliberation-fleet-clients", "monitoring"
READY_WITHIN_S, EACH_WITHIN_S = 900, 600
TLS_SECRETS = {"nats-server-tls": ["nats", f"nats.{NAMESPACE}", "*.nats-cluster"], "nats-client-tls": ["fleet"]}
READYZ = ("wget", "--content-on-error", "-qO-", "http://127.0.0.1:9464/readyz")
NOT_DRAINED = {"deliberation-fleet-test": "true"}
"""A label of pods that nobody would make anew."""
Object = dict[str, Any]


def kubectl(*arguments: str, stdin: str | None = None, timeout_s: int = 120, check: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def ours(*arguments: str, timeout_s: int = 120, check: bool = True) -> str:
    return kubectl("-n", NAMESPACE, *arguments, timeout_s=timeout_s, check=check)


def objects(kinds: str, *arguments: str) -> list[Object]:
    found: list[Object] = json.loads(ours("get", kinds, *arguments, "-o", "json"))["items"]
    return found


def pods(selector: str = "") -> list[Object]:
    return objects("pods", "-l", selector)


def until(fact: Callable[[], bool], what: str, within_s: int = READY_WITHIN_S) -> None:
    try:
        wait_until(fact, within_s, pause_s=1)
    except TimeoutError:
        raise AssertionError(f"{what}\n{ours('get', 'pods', '-o', 'wide')}") from None


def all_ready() -> bool:
    """Every workload has the pods that it wants, and every pod is ready."""
    (cluster,) = objects("rayclusters")
    status = cluster.get("status", {})
    if status.get("state") != "ready" or "readyWorkerReplicas" not in status:
        return False
    for each in objects("deployments,statefulsets"):
        status, wanted = each.get("status", {}), each["spec"]["replicas"]
        current = status.get("observedGeneration") == each["metadata"]["generation"]
        if not current or status.get("readyReplicas", 0) != wanted or status.get("updatedReplicas", 0) != wanted:
            return False
    return all(map(ready, pods()))


def ready(pod: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def probe_restarts() -> list[str]:
    """What the events tell of containers that a probe has ended."""
    told = [event["message"] for event in objects("events") if event["reason"] == "Killing"]
    return [message for message in told if "probe" in message]


def dispatchers() -> list[str]:
    return [each["metadata"]["name"] for each in pods("app.kubernetes.io/name=dispatcher")]


def readiness(pod: str) -> Object:
    """What it tells. Nothing, where kubectl has an error: the container may be starting again."""
    body = ours("exec", pod, "--", *READYZ, check=False)
    found: Object = json.loads(body) if body else {}
    return found


def missing(pod: str) -> set[str]:
    """The problems that it tells."""
    return set(readiness(pod).get("problems", []))


# --- applying ----------------------------------------------------------------------------------------------------


def apply(kustomization: Path) -> None:
    """Namespace, Secrets and the fleet, as `deploy/README.md` says; the Secrets of TLS, where they are asked for."""
    assert NAMESPACE not in kubectl("get", "namespaces", "-o", "name"), f"the namespace {NAMESPACE} exists already"
    kubectl("apply", "-f", str(KUBERNETES / "namespace.yaml"))
    example = str(KUBERNETES / "secrets.example.yaml")
    filled = subprocess.run([ROOT / "deploy/fill-secrets", example], capture_output=True, text=True, check=True)
    kubectl("apply", "-f", "-", stdin=filled.stdout)
    text = kubectl("kustomize", str(kustomization))
    tls = tls_secrets() if "secretName: nats-server-tls" in text else []
    kubectl("create", "namespace", CLIENTS)
    for secret, namespace in [(each, NAMESPACE) for each in tls] + [(each, CLIENTS) for each in tls]:
        kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(secret))
    kubectl("apply", "-f", "-", stdin=text)
    until(all_ready, "not all is ready")
    image = next(each["spec"]["containers"][0]["image"] for each in pods("app.kubernetes.io/name=collector"))
    run_pod(CLIENTS, "client", image, {"deliberation-fleet/client": "true"}, tls=bool(tls))


def remove(kustomization: Path) -> None:
    kubectl("delete", "namespace", CLIENTS, "--ignore-not-found", timeout_s=300, check=False)
    kubectl("delete", "-k", str(kustomization), "--ignore-not-found", timeout_s=300, check=False)
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout_s=300, check=False)


@contextmanager
def namespace(name: str, manifest: Path | None = None) -> Iterator[None]:
    """It is there inside. One that was not there before is made, by its manifest if there is one, and deleted."""
    new = f"namespace/{name}" not in kubectl("get", "namespaces", "-o", "name").split()
    if new:
        kubectl("create", *(("-f", str(manifest)) if manifest else ("namespace", name)))
    try:
        yield
    finally:
        if new:
            kubectl("delete", "namespace", name, "--ignore-not-found", timeout_s=300, check=False)


def run_pod(
    namespace: str,
    name: str,
    image: str,
    labels: dict[str, str],
    *,
    tls: bool = False,
    command: Sequence[str] = ("sleep", "infinity"),
) -> str:
    """A pod of the fleet's image, which does nothing by itself; returns its address."""
    container: Object = {"name": name, "image": image, "command": list(command)}
    spec: Object = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if tls:
        container["volumeMounts"] = [{"name": "tls", "mountPath": "/tls"}]
        files = {"NATS_CA": "ca.crt", "NATS_CERT": "tls.crt", "NATS_KEY": "tls.key"}
        container["env"] = [{"name": key, "value": f"/tls/{file}"} for key, file in files.items()]
        spec["volumes"] = [{"name": "tls", "secret": {"secretName": "nats-client-tls"}}]
    metadata = {"name": name, "labels": labels | NOT_DRAINED}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s", timeout_s=130)
    return kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.podIP}")


def tls_secrets() -> list[Object]:
    """With the names and keys that cert-manager would give them."""
    authority = trustme.CA()
    found = []
    for name, hosts in TLS_SECRETS.items():
        issued = authority.issue_cert(*hosts)
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        data = {"ca.crt": authority.cert_pem.bytes(), "tls.crt": chain, "tls.key": issued.private_key_pem.bytes()}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}}
        found.append(secret | {"data": {key: base64.b64encode(value).decode() for key, value in data.items()}})
    return found


def overlay(folder: Path, *components: str, settings: str = "", patches: Sequence[Object] = ()) -> Path:
    """A kustomization in `folder`: the base with these components and patches. `settings`: all TOML of the fleet."""
    up = "/".join([".."] * len(folder.resolve().parts[1:]))
    text: Object = {
        "namespace": NAMESPACE,
        "resources": [f"{up}{KUBERNETES}/base"],
        "components": [f"{up}{KUBERNETES}/components/{name}" for name in components],
        "patches": list(patches),
    }
    if settings:
        (folder / "fleet.toml").write_text(settings)
        text["configMapGenerator"] = [{"name": "fleet-config", "behavior": "merge", "files": ["fleet.toml"]}]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return folder


# --- asking ----------------------------------------------------------------------------------------------------


def as_client(*command: str, stdin: str | None = None, user: str = "client") -> subprocess.CompletedProcess[str]:
    """Runs `command` in the client's pod, as this user of NATS."""
    (secret,) = (each for each in objects("secrets") if each["metadata"]["name"] == "nats-users")
    name = f"NATS_{user.upper().replace('-', '_')}_PASSWORD"
    password = base64.b64decode(secret["data"][name]).decode()
    url = f"NATS_URL=nats://{user}:{password}@nats.{NAMESPACE}:4222"
    return subprocess.run(
        ["kubectl", "-n", CLIENTS, "exec", "-i", "client", "--", "env", "HOME=/tmp", url, *command],
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=ASKED_WITHIN_S + 60,
        check=False,
    )


def ask(question: str, user: str = "client", agents: int = 3) -> subprocess.CompletedProcess[str]:
    command = ("timeout", str(ASKED_WITHIN_S), "fleet", "ask", "--json", f"--agents={agents}", question)
    return as_client(*command, user=user)


def ends() -> dict[str, int]:
    """Task -> how many terminal events there are of it."""
    done = as_client("python", "-", stdin=COUNT_ENDS)
    assert done.returncode == 0, done.stderr
    counted: dict[str, int] = json.loads(done.stdout)
    return counted


# --- looking ----------------------------------------------------------------------------------------------------


CONNECT = """
import json, socket, sys
reached = []
for name, host, port in json.load(sys.stdin):
    try:
        socket.create_connection((host, port), timeout=3).close()
        reached.append(name)
    except OSError:
        pass
print(json.dumps(reached))
"""


def reached(namespace: str, pod: str, targets: dict[str, tuple[str, int]]) -> set[str]:
    """Those of the addresses that a pod, which has Python, can connect to."""
    given = json.dumps([[name, *address] for name, address in targets.items()])
    return set(json.loads(kubectl("-n", namespace, "exec", "-i", pod, "--", "python", "-c", CONNECT, stdin=given)))


class ServerLogs:
    """Inside it, what the NATS servers say of refused connections is kept, whatever pod says it."""

    REFUSED = re.compile("authentication error|authorization violation", re.IGNORECASE)

    def __init__(self, servers: Sequence[str]) -> None:
        self.refusals: list[str] = []
        self._stop = threading.Event()
        self._followed: dict[str, subprocess.Popen[str]] = {}
        self._threads = [threading.Thread(target=self._follow, args=(name,)) for name in servers]

    def __enter__(self) -> "ServerLogs":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for process in self._followed.values():
            process.terminate()
        for thread in self._threads:
            thread.join()

    def _follow(self, name: str) -> None:
        while not self._stop.is_set():
            command = ["kubectl", "-n", NAMESPACE, "logs", "--follow", "--container=nats", name]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
                self._followed[name] = process
                if self._stop.is_set():
                    process.terminate()
                assert process.stdout
                self.refusals += [f"{name}: {line}" for line in process.stdout if self.REFUSED.search(line)]
            self._stop.wait(1)  # there is no pod, or its container does not run yet
