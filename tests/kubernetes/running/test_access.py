"""Who reaches what, what health says, and where containers may write: read back from the running fleet."""

import base64
import json
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import (
    CLIENTS,
    MONITORING,
    NAMESPACE,
    kubectl,
    namespace,
    objects,
    ours,
    pods,
    reached,
    run_pod,
)

pytestmark = pytest.mark.timeout(1800)
SELECTORS = {
    "nats": "app.kubernetes.io/name=nats",
    "dispatcher": "app.kubernetes.io/name=dispatcher",
    "collector": "app.kubernetes.io/name=collector",
    "vllm": "app.kubernetes.io/name=vllm",
    "head": "ray.io/node-type=head",
    "worker": "ray.io/group=agents",
}
PORTS = (
    *("nats:4222", "nats:6222", "nats:8222", "vllm:8000", "head:6379", "head:8080", "worker:8080"),
    *("dispatcher:9464", "collector:9464", "kubernetes:443"),
)
RAY_NODES = {"head:6379", "head:8080", "worker:8080", "dispatcher:9464"}
"""They talk to each other on ports that they choose: all are open between them."""
REACHES: dict[str, set[str]] = {
    "dispatcher": {"nats:4222", *RAY_NODES},
    "collector": {"nats:4222"},
    "head": {"kubernetes:443", *RAY_NODES},
    "worker": {"nats:4222", "vllm:8000", *RAY_NODES},
    "vllm": set(),
    "client": {"nats:4222"},
    "stranger": set(),
    "monitoring": {"vllm:8000", "head:8080", "worker:8080", "dispatcher:9464", "collector:9464"},
}
MAY_ASK_KUBERNETES = {"client", "stranger", "monitoring", "vllm"}
"""Not decided here: their own namespaces say; vLLM may download from port 443 of anybody."""


@pytest.fixture(scope="module")
def places(fleet: object) -> Iterator[dict[str, tuple[str, str]]]:
    """Who looks -> namespace and pod: one of each of the fleet, a client, a stranger, and Prometheus' namespace."""
    found = {name: (NAMESPACE, pods(selector)[0]["metadata"]["name"]) for name, selector in SELECTORS.items()}
    image = pods(SELECTORS["collector"])[0]["spec"]["containers"][0]["image"]
    with namespace(MONITORING):
        try:
            run_pod(MONITORING, "fleet-scraper", image, {})
            run_pod(CLIENTS, "stranger", image, {})
            yield found | {
                "client": (CLIENTS, "client"),
                "stranger": (CLIENTS, "stranger"),
                "monitoring": (MONITORING, "fleet-scraper"),
            }
        finally:
            kubectl("-n", MONITORING, "delete", "pod", "fleet-scraper", "--ignore-not-found", check=False)


def inside(place: tuple[str, str], *command: str, stdin: str = "", check: bool = True) -> str:
    namespace, pod = place
    return kubectl("-n", namespace, "exec", "-i", pod, "--", *command, stdin=stdin, check=check)


@pytest.mark.parametrize("who", REACHES)
def test_policies_let_through_what_they_name_and_nothing_else(who: str, places: dict[str, tuple[str, str]]) -> None:
    """By the addresses of the pods; another pod than itself, where there are several of its kind."""
    addresses = {"kubernetes": json.loads(kubectl("get", "service", "kubernetes", "-o", "json"))["spec"]["clusterIP"]}
    for name, selector in SELECTORS.items():
        others = [each for each in pods(selector) if each["metadata"]["name"] != places[who][1]]
        if others:
            addresses[name] = others[0]["status"]["podIP"]
    targets = {}
    for target in PORTS:
        name, port = target.split(":")
        if name in addresses and (name != "kubernetes" or who not in MAY_ASK_KUBERNETES):
            targets[target] = (addresses[name], int(port))
    assert reached(*places[who], targets) == REACHES[who] & targets.keys()


@pytest.mark.parametrize("name", ["dispatcher", "collector"])
def test_health_tells_that_all_is_well(name: str) -> None:
    """Of each pod: alive, ready, no problem."""
    for pod in pods(SELECTORS[name]):
        place = (NAMESPACE, pod["metadata"]["name"])
        assert json.loads(inside(place, "wget", "-qO-", "http://127.0.0.1:9464/healthz")) == {"alive": True}
        told = json.loads(inside(place, "wget", "-qO-", "http://127.0.0.1:9464/readyz"))
        assert (told["ready"], told["problems"]) == (True, [])


@pytest.mark.parametrize(
    ("name", "port", "metric"),
    [
        ("dispatcher", 9464, "fleet_ready 1.0"),
        ("collector", 9464, "fleet_ready 1.0"),
        ("head", 8080, "ray_"),
        ("worker", 8080, "ray_"),
    ],
)
def test_metrics_are_within_reach(name: str, port: int, metric: str, places: dict[str, tuple[str, str]]) -> None:
    """Of Prometheus, in its namespace."""
    (address, *_) = (each["status"]["podIP"] for each in pods(SELECTORS[name]))
    page = inside(places["monitoring"], "wget", "-qO-", f"http://{address}:{port}/metrics")
    assert metric in page


SEEN = """
import json, os, pathlib, sys
files = [path for path in pathlib.Path("/run/secrets").rglob("*") if path.is_file()]
texts = [*os.environ.values(), *(path.read_text() for path in files)]
print(json.dumps([name for name, value in json.load(sys.stdin).items() if any(value in text for text in texts)]))
"""
HOLDS = {
    "dispatcher": {"nats-users/NATS_CONTROL_PASSWORD", "ray/auth_token"},
    "collector": {"nats-users/NATS_CONTROL_PASSWORD"},
    "head": {"ray/auth_token"},
    "worker": {"nats-users/NATS_WORKER_PASSWORD", "vllm/VLLM_API_KEY", "ray/auth_token"},
}


@pytest.mark.parametrize("name", HOLDS)
def test_containers_hold_the_secrets_that_they_need_and_no_other(name: str, fleet: object) -> None:
    """In variables and files: NATS' are apart from Ray's, and no component has another one's."""
    secrets = {
        f"{each['metadata']['name']}/{key}": base64.b64decode(value).decode()
        for each in objects("secrets")
        for key, value in each.get("data", {}).items()
    }
    given = json.dumps({key: value for key, value in secrets.items() if value})
    place = (NAMESPACE, pods(SELECTORS[name])[0]["metadata"]["name"])
    assert set(json.loads(inside(place, "python", "-c", SEEN, stdin=given))) == HOLDS[name]


def test_ray_may_not_read_secrets(fleet: object) -> None:
    """Its head has a token for Kubernetes."""
    account = pods(SELECTORS["head"])[0]["spec"]["serviceAccountName"]
    as_head = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    assert ours("auth", "can-i", "get", "pods", as_head).strip() == "yes"
    for verb in ("get", "list", "watch"):
        asked = kubectl("-n", NAMESPACE, "auth", "can-i", verb, "secrets", as_head, check=False)
        assert asked.strip() == "no", verb


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_containers_write_to_their_own_places_only(name: str) -> None:
    """The image's own files are as it brought them; nobody is root."""
    pod = pods(SELECTORS[name])[0]
    if not pod["spec"]["containers"][0]["securityContext"].get("readOnlyRootFilesystem"):
        assert name == "vllm", "only vLLM's image is not made for that"
        return
    place = (NAMESPACE, pod["metadata"]["name"])
    assert inside(place, "sh", "-c", "id -u").strip() != "0"
    for folder in ("/", "/etc", "/usr/local/bin", "/home"):
        mounted = f"touch {folder}/written 2>&1; ls {folder}/written 2>/dev/null; true"
        assert f"{folder}/written".replace("//", "/") not in inside(place, "sh", "-c", mounted).splitlines()
    assert inside(place, "sh", "-c", "touch /tmp/written && ls /tmp/written").strip() == "/tmp/written"


def test_budgets_count_the_pods_that_they_protect(fleet: object) -> None:
    """Each allows a disruption, of pods that it sees."""
    for budget in json.loads(ours("get", "pdb", "-o", "json"))["items"]:
        assert budget["status"]["expectedPods"] > 0, budget["metadata"]["name"]
        assert budget["status"]["disruptionsAllowed"] > 0, budget["metadata"]["name"]


@pytest.mark.parametrize("name", ["nats", "dispatcher", "collector"])
def test_nothing_ended_while_the_fleet_came_up(name: str, fleet: object) -> None:
    """What it needs came up beside it, in any order: that is waited for, not ended over."""
    for pod in pods(SELECTORS[name]):
        assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]
