"""The fleet on the cluster that KUBECONFIG names.

`make test-kubernetes`. Needs kubectl, KubeRay, a network plugin that enforces NetworkPolicies, three nodes, a default
StorageClass with room for three volumes, and the images on the nodes or within their reach. The namespaces must not
exist before, and are deleted at the end.
"""

import os

import pytest

from tests.kubernetes.cluster import kubectl


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    """A clear word where there is none."""
    assert "KUBECONFIG" in os.environ, "KUBECONFIG names no cluster"
    assert "rayclusters" in kubectl("api-resources", "--api-group=ray.io", "-o", "name"), "KubeRay is not installed"
