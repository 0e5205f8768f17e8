"""One fleet for all tests of this folder: what FLEET_KUSTOMIZATION names, by default the overlay `simulator`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import KUBERNETES, apply, remove

KUSTOMIZATION = Path(os.environ.get("FLEET_KUSTOMIZATION", KUBERNETES / "overlays" / "simulator"))


@pytest.fixture(scope="package")
def fleet() -> Iterator[Path]:
    """What is applied: it is ready, and there is a pod of a client in another namespace."""
    try:
        apply(KUSTOMIZATION)
        yield KUSTOMIZATION
    finally:
        remove(KUSTOMIZATION)
