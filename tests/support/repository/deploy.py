"""Reads `deploy/` as data: the compose file, the manifests as written, and as kustomize renders them."""

import functools
import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
NATS = DEPLOY / "nats"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C, ten times as fast, where PyYAML was built with it."""
FLEET_IMAGE = "deliberation-fleet"
PASSWORDS = {
    f"NATS_{user.upper()}_PASSWORD": f"p{user}"
    for user in ("client", "viewer", "control", "worker", "operator", "sys", "route", "team_a", "team_b")
}


def needed(module: str) -> Any:
    """A development dependency: skipped on a laptop without it, a failure in CI."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(module)
    return pytest.importorskip(module)


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.load_all(path.read_text(), LOADER) if document is not None]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = documents(ROOT / "docker-compose.yml")[0]
    return loaded


def kustomization(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = documents(folder / "kustomization.yaml")[0]
    return loaded


def manifests() -> list[Any]:
    """Every object of the base, and the example Secrets."""
    other = {"kustomization.yaml", "name-references.yaml"}
    files = [path for path in sorted(BASE.glob("*.yaml")) if path.name not in other]
    return [found for path in [*files, KUBERNETES / "secrets.example.yaml"] for found in documents(path)]


def one(kind: str, name: str, within: list[Any] | None = None) -> Any:
    objects = manifests() if within is None else within
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def templates(within: list[Any] | None = None) -> dict[str, Any]:
    """Name -> pod template, of all that makes pods; those of the Ray cluster are `ray/head` and `ray/<group>`."""
    found = {}
    for manifest in manifests() if within is None else within:
        spec = manifest.get("spec", {})
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            found[manifest["metadata"]["name"]] = spec["template"]
        if manifest["kind"] == "RayCluster":
            found["ray/head"] = spec["headGroupSpec"]["template"]
            found |= {f"ray/{group['groupName']}": group["template"] for group in spec["workerGroupSpecs"]}
    return found


def pods(within: list[Any] | None = None) -> dict[str, Any]:
    """Name -> pod spec."""
    return {name: template["spec"] for name, template in templates(within).items()}


@functools.cache
def render(folder: Path) -> str:
    """As `kubectl apply -k` would send it; a visible skip without kubectl."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is missing: what kustomize renders is not checked")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def rendered(folder: Path) -> list[Any]:
    return list(yaml.load_all(render(folder), LOADER))


def validate(manifest: Any, version: str = "1.35") -> None:
    """By the API's own schemas, strictly; what several overlays have alike once."""
    _validate(json.dumps(manifest), version)


@functools.cache
def _validate(manifest: str, version: str) -> None:
    needed("kubernetes_validate").validate(json.loads(manifest), version, strict=True)


# ------------------------------------------------------------------------------------------------------------ settings

PLACES = {
    **{f"compose/{name}": name for name in ("dispatcher", "collector", "ray-head")},
    **{f"kubernetes/{name}": name for name in ("dispatcher", "collector", "ray/agents")},
}


def environment(place: str) -> dict[str, str]:
    """As a process would see it; mounted secrets are `secret`."""
    if place.startswith("compose/"):
        service = compose()["services"][PLACES[place]]
        mounts = {f"/run/secrets/{name}" for name in service["secrets"]}
        return dict(_read(name, value, mounts) for name, value in service["environment"].items())
    container = pods()[PLACES[place]]["containers"][0]
    found: dict[str, str] = {}
    mounted = mounted_secrets(pods()[PLACES[place]])
    for source in container.get("envFrom", []):
        assert source == {"configMapRef": {"name": "fleet-environment"}}
        lines = (BASE / "fleet.env").read_text().split()
        found |= dict(line.split("=", 1) for line in lines)
    for variable in container.get("env", []):
        name, value = _read(variable["name"], variable.get("value", "secret"), mounted)
        found[name] = value
    return found


def _read(name: str, value: str, mounted: Collection[str]) -> tuple[str, str]:
    """`X_FILE` of a mounted secret as X."""
    return (name.removesuffix("_FILE"), "secret") if value in mounted else (name, value)


def mounted_secrets(pod: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Path in the first container -> the Secret and its key, of what the pod mounts key by key."""
    places = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0].get("volumeMounts", [])}
    return {
        f"{places[volume['name']]}/{item['path']}": (volume["secret"]["secretName"], item["key"])
        for volume in pod.get("volumes", [])
        for item in volume.get("secret", {}).get("items", ())
    }
