"""Questions are asked in a loop while pods are deleted, rolled, scaled, drained and suspended."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import (
    EACH_WITHIN_S,
    NOT_DRAINED,
    ServerLogs,
    all_ready,
    ask,
    dispatchers,
    ends,
    kubectl,
    missing,
    objects,
    ours,
    pods,
    probe_restarts,
    until,
)
from tests.support.client.asking import Asking

pytestmark = pytest.mark.timeout(1800)
HEAD, WORKERS = "ray.io/node-type=head", "ray.io/group=agents"


@pytest.fixture(scope="module")
def server_logs(fleet: Path) -> Iterator[ServerLogs]:
    with ServerLogs([each["metadata"]["name"] for each in pods("app.kubernetes.io/name=nats")]) as logs:
        yield logs


def rolled(*workloads: str) -> None:
    ours("rollout", "restart", *workloads)
    for name in workloads:
        ours("rollout", "status", name, f"--timeout={EACH_WITHIN_S}s", timeout_s=EACH_WITHIN_S + 10)


def delete_head() -> None:
    ours("delete", "pod", "-l", HEAD, "--wait=true", timeout_s=180)


def delete_worker() -> None:
    name = pods(WORKERS)[0]["metadata"]["name"]
    ours("delete", "pod", name, "--wait=true", timeout_s=180)


def roll_components() -> None:
    rolled("deployment/dispatcher", "deployment/collector")


def roll_nats() -> None:
    rolled("statefulset/nats")


def scale() -> None:
    for count in ("3", "1", "2"):
        ours("scale", "deployment/dispatcher", "deployment/collector", f"--replicas={count}")
        until(all_ready, f"not all is ready after scaling to {count}")


def drain() -> None:
    """With its NATS server, which waits for the node: two never share one."""
    node = pods(HEAD)[0]["spec"]["nodeName"]
    selector = "--pod-selector=" + ",".join(f"{name}!={value}" for name, value in NOT_DRAINED.items())
    arguments = ["--ignore-daemonsets", "--delete-emptydir-data", selector, f"--timeout={EACH_WITHIN_S}s"]
    try:
        kubectl("drain", node, *arguments, timeout_s=EACH_WITHIN_S + 10)
    finally:
        kubectl("uncordon", node)


def suspend() -> None:
    """No Ray at all for a while. Dispatchers wait for it: alive, not ready, and they say why."""

    def suspended(value: bool) -> None:
        ours("patch", "raycluster", "ray", "--type=merge", "-p", json.dumps({"spec": {"suspend": value}}))

    suspended(True)
    try:
        until(lambda: not pods("ray.io/cluster=ray"), "pods of Ray are left")
        until(lambda: all(missing(each) & {"ray", "workers"} for each in dispatchers()), "no dispatcher misses Ray")
    finally:
        suspended(False)


@pytest.mark.usefixtures("fleet")
def test_a_question_is_answered() -> None:
    """From another namespace, as the user `client`."""
    done = ask("Design a rate limiter")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "disrupt", [delete_worker, delete_head, roll_components, scale, roll_nats, drain, suspend], ids=lambda f: f.__name__
)
def test_nothing_is_lost(disrupt: Callable[[], None], server_logs: ServerLogs) -> None:
    """Every question asked meanwhile ends once, all is ready again, no probe restarted ours, NATS refused nobody."""
    with Asking(ask) as asking:
        disrupt()
        until(all_ready, "not all is ready again")
    asking.check(ends())
    assert ask("And now?").returncode == 0
    assert probe_restarts() == []
    assert server_logs.refusals == []


def test_what_holds_data_is_not_deleted_with_the_rest(fleet: Path) -> None:
    """`kubectl delete -k` leaves the namespace, the Secrets and the volumes of NATS; a second apply finds them."""
    before = ends()
    kubectl("delete", "-k", str(fleet), timeout_s=300)
    until(lambda: not pods(), "pods are left")
    assert "nats-users" in {each["metadata"]["name"] for each in objects("secrets")}
    assert "data-nats-0" in {each["metadata"]["name"] for each in objects("pvc")}
    kubectl("apply", "-k", str(fleet))
    until(all_ready, "not all is ready again")
    assert ask("Is it still you?").returncode == 0
    assert before.items() <= ends().items()
