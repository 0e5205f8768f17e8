"""What else there is to apply: each overlay is accepted by the API server, and those that need no GPU answer."""

from pathlib import Path

import pytest

from tests.kubernetes.cluster import KUBERNETES, NAMESPACE, apply, ask, kubectl, overlay, probe_restarts, remove

pytestmark = pytest.mark.timeout(1800)
OVERLAYS = [KUBERNETES, *sorted((KUBERNETES / "overlays").iterdir())]
COMBINATIONS = [
    ("small", "simulator"),  # the overlay `kind`
    ("tls", "simulator"),
    ("head-rights", "external-models", "cluster-dns", "simulator"),
]


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_server_accepts(folder: Path) -> None:
    """Strictly, the RayCluster by KubeRay's own definition; nothing is stored."""
    there = f"namespace/{NAMESPACE}" in kubectl("get", "namespaces", "-o", "name")
    if not there:
        kubectl("apply", "-f", str(KUBERNETES / "namespace.yaml"))
    try:
        told = kubectl("apply", "-k", str(folder), "--dry-run=server", "--validate=strict")
        assert "raycluster.ray.io/ray created (server dry run)" in told
    finally:
        if not there:
            kubectl("delete", "namespace", NAMESPACE, timeout_s=300)


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
