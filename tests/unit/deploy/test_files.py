"""Every file in `deploy/`: it parses, holds no secret, and names its images by version."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.repository.deploy import (
    BASE,
    DEPLOY,
    FLEET_IMAGE,
    KUBERNETES,
    ROOT,
    compose,
    documents,
    kustomization,
    one,
    pods,
)

YAML_FILES = sorted([ROOT / "docker-compose.yml", *DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_file_parses_and_says_something(path: Path) -> None:
    """And no key occurs twice, which YAML readers pass over in silence."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> Any:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key occurs twice"
        loader.flatten_mapping(node)
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert [document for document in yaml.load_all(path.read_text(), Loader=Strict) if document]


def test_no_secret_is_in_the_repository() -> None:
    """Examples hold nothing that starts a fleet, everything else refers to a Secret or to the environment."""
    for document in documents(KUBERNETES / "secrets.example.yaml"):
        assert set(document["stringData"].values()) <= {"replace-me", ""}
    git = ["git", "ls-files", DEPLOY / "secrets"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
    assert "secrets.example.yaml" not in kustomization(KUBERNETES)["resources"]


_SECRET = r"k[0-9a-f]{24}"
"""Letters first, letters and digits only: what NATS takes."""


def test_secrets_of_kubernetes_are_filled() -> None:
    """Each value another; nothing else of the file changes."""
    path = KUBERNETES / "secrets.example.yaml"
    filled = subprocess.run([DEPLOY / "fill-secrets", path], capture_output=True, text=True, check=True).stdout
    values = [v for each in yaml.safe_load_all(filled) if each for v in each["stringData"].values() if v]
    assert len(values) == len(set(values)) == 10
    assert all(re.fullmatch(_SECRET, value) for value in values)
    assert re.sub(f"(: ){_SECRET}", r"\1replace-me", filled) == path.read_text()


def test_secrets_of_compose_are_made_once(tmp_path: Path) -> None:
    """One for each that the compose file names, each another, for the owner's eyes; what is there stays."""
    (tmp_path / "deploy").mkdir()
    for name in ("docker-compose.yml", "deploy/make-secrets"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([tmp_path / "deploy/make-secrets"], check=True)
    folder = tmp_path / "deploy/secrets"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert made.keys() == compose()["secrets"].keys()
    assert made.pop("hf_token") == ""
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch(_SECRET, value) for value in made.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "nats_client_password").unlink()
    subprocess.run([tmp_path / "deploy/make-secrets"], check=True)
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name, value in made.items() if again[name] != value} == {"nats_client_password"}


@pytest.mark.parametrize("password", ["", "replace-me", "123", "a b", "a$HOME", "good1"])
def test_nats_does_not_start_with_a_password_that_is_none(password: str) -> None:
    """The example as it stands, an empty value, and what NATS would read as something else than a word."""
    (container,) = one("StatefulSet", "nats")["spec"]["template"]["spec"]["initContainers"]
    environ = {"PATH": os.environ["PATH"], "NATS_CLIENT_PASSWORD": "good0", "NATS_ROUTE_PASSWORD": password}
    assert not re.search(r"\$[$(]", container["command"][-1]), "Kubernetes would put something else in its place"
    checked = subprocess.run(container["command"], env=environ, capture_output=True, text=True, check=False)
    assert (checked.returncode == 0) == (password == "good1")
    assert ("NATS_ROUTE_PASSWORD" in checked.stderr) == (password != "good1")
    assert password in ("", "123") or password not in checked.stderr


def test_images_are_pinned() -> None:
    """Every image names a version; the fleet's own is the project's."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = {service["image"] for service in compose()["services"].values()}
    for pod in pods().values():
        found |= {container["image"] for container in pod["containers"] + pod.get("initContainers", [])}
    for path in (KUBERNETES / "components").rglob("*.yaml"):
        found |= set(re.findall(r"^ *image: (\S+)$", path.read_text(), re.MULTILINE))
    for image in found - {FLEET_IMAGE}:
        name, _, tag = image.partition(":")
        assert re.match(r"v?\d+\.\d+\.\d+", tag), image
        if name == FLEET_IMAGE:
            assert tag == version
        if name == "nats":
            assert tuple(map(int, tag.partition("-")[0].split("."))) >= (2, 12, 3)
    assert kustomization(BASE)["images"] == [{"name": FLEET_IMAGE, "newTag": version}]


def test_image_is_built_from_what_is_there() -> None:
    """What is copied is let through by `.dockerignore`; one Python builds and runs; not as root, ended by SIGTERM."""
    text = (DEPLOY / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for arguments in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in [word for word in arguments.split() if not word.startswith("--")][:-1]:
            assert source in allowed
            assert (ROOT / source).exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= allowed
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) == 2
    assert len(set(stages)) == 1, "built with another Python than it runs with"
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["tini", "--"\]$', text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)


def test_base_image_has_a_digest() -> None:
    """`make image` puts it in the place of the tag, which is the one that the Dockerfile names."""
    text = (ROOT / "Makefile").read_text()
    base = re.search(r"^BASE := (\S+)$", text, re.MULTILINE)
    assert base
    assert set(re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)) == {base[1]}
    assert re.search(r"^BASE_DIGEST := sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"-t {FLEET_IMAGE}:{version} ." in text


def test_image_installs_only_what_is_locked() -> None:
    """Each `pip install` asks for hashes, but the one of the project itself, which then may fetch nothing."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert len(installs) == 3
    for arguments in installs:
        assert "--require-hashes" in arguments or {"--no-deps", "--no-build-isolation"} <= set(arguments.split())
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", text))
    assert {"title", "version", "revision", "licenses"} <= labels
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(rf"^ARG VERSION={project['version']}$", text, re.MULTILINE)
