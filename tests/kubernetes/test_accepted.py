"""Each overlay and each component, as the API server takes it. Nothing is stored but the namespace that it asks for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.cluster import KUBERNETES, NAMESPACE, kubectl, namespace, overlay
from tests.support.repository.deploy import COMPONENTS

pytestmark = pytest.mark.timeout(600)
OVERLAYS = [KUBERNETES, *sorted((KUBERNETES / "overlays").iterdir())]


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    """What is looked at there, and not stored, needs one."""
    with namespace(NAMESPACE, KUBERNETES / "namespace.yaml"):
        yield


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_server_accepts(folder: Path) -> None:
    """Strictly, the RayCluster by KubeRay's own definition; nothing is stored."""
    told = kubectl("apply", "-k", str(folder), "--dry-run=server", "--validate=strict")
    assert "raycluster.ray.io/ray created (server dry run)" in told


@pytest.mark.parametrize("name", COMPONENTS)
def test_server_accepts_each_component(name: str, tmp_path: Path) -> None:
    """Those of KEDA and of the Prometheus operator by their own definitions, where the cluster has them."""
    kustomization = str(overlay(tmp_path, name))
    kinds = {each["kind"] for each in yaml.safe_load_all(kubectl("kustomize", kustomization))}
    if unknown := kinds - set(kubectl("api-resources", "--no-headers").split()):
        pytest.skip(f"the cluster knows no {', '.join(sorted(unknown))}")
    kubectl("apply", "-k", kustomization, "--dry-run=server", "--validate=strict")
