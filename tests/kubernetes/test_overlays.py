"""What else there is to apply: combinations of components that need no GPU, from nothing to an answer."""

import json
from pathlib import Path

import pytest

from fleet.exits import Exit
from tests.kubernetes.cluster import (
    CLIENTS,
    NAMESPACE,
    SETTINGS,
    apply,
    as_client,
    ask,
    ours,
    overlay,
    pods,
    probe_restarts,
    reached,
    remove,
    run_pod,
    until,
)

pytestmark = pytest.mark.timeout(1800)
COMBINATIONS = [
    ("small", "simulator"),  # the overlay `kind`
    ("tls", "simulator"),
    ("clients-apart", "simulator"),
]
HEAD = f"--as=system:serviceaccount:{NAMESPACE}:ray"


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_a_question_is_answered_by(components: tuple[str, ...], tmp_path: Path) -> None:
    """From nothing to an answer; no probe restarts anything on the way."""
    kustomization = overlay(tmp_path, *components)
    try:
        apply(kustomization)
        done = ask("Design a rate limiter")
        assert done.returncode == 0, done.stdout + done.stderr
        assert probe_restarts() == []
    finally:
        remove(kustomization)


def test_two_tenants_share_the_fleet_and_see_nothing_of_each_other(tmp_path: Path) -> None:
    """Each asks; a task of one is unknown to the other, and an operator sees both."""
    teams = ("team-a", "team-b")
    tables = "".join(f"\n[tenants.{team}]\nweight = 1\n" for team in teams)
    kustomization = overlay(tmp_path, "tenants", "simulator", settings=SETTINGS + tables)
    try:
        apply(kustomization)
        for mine, others in (teams, teams[::-1]):
            done = ask("Design a rate limiter", mine)
            assert done.returncode == 0, done.stdout + done.stderr
            result = json.loads(done.stdout)
            assert result["tenant"] == mine
            assert as_client("fleet", "result", result["task_id"], user=mine).returncode == 0
            assert as_client("fleet", "result", result["task_id"], user=others).returncode == Exit.BAD_REQUEST
        told = as_client("fleet", "tenants", "--json", user="operator")
        assert {json.loads(line)["tenant"] for line in told.stdout.splitlines()} == {"default", *teams}
        assert probe_restarts() == []
    finally:
        remove(kustomization)


def change(path: str, value: object) -> None:
    """As Ray's head: a field of its group of workers. Nothing is stored."""
    patch = [{"op": "add", "path": f"/spec/workerGroupSpecs/0/{path}", "value": value}]
    ours("patch", "raycluster", "ray", HEAD, "--type=json", "-p", json.dumps(patch), "--dry-run=server")


def test_components_open_and_close_what_they_name(tmp_path: Path) -> None:
    """Workers reach a model server of another namespace; the head may change how many workers there are, only."""
    kustomization = overlay(tmp_path, "head-rights", "external-models", "cluster-dns", "simulator")
    try:
        apply(kustomization)
        assert ask("Design a rate limiter").returncode == 0
        worker, collector = (pods(label)[0] for label in ("ray.io/group=agents", "app.kubernetes.io/name=collector"))
        image = collector["spec"]["containers"][0]["image"]
        label = {"deliberation-fleet/model-server": "true"}
        address = run_pod(CLIENTS, "models", image, label, command=["python", "-m", "http.server", "8000"])
        until(lambda: bool(reached(NAMESPACE, worker["metadata"]["name"], {"models": (address, 8000)})), "no way out")
        assert reached(NAMESPACE, collector["metadata"]["name"], {"models": (address, 8000)}) == set()
        change("replicas", 3)
        with pytest.raises(AssertionError, match="how many workers there are"):
            change("template/spec/containers/0/image", "another")
        with pytest.raises(AssertionError, match="may not change pods"):
            ours("label", "pod", worker["metadata"]["name"], HEAD, "a=b", "--dry-run=server")
    finally:
        remove(kustomization)
