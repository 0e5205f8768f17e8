"""The services of `docker-compose.yml`, with the simulator, as a project of their own: built, hurt, and removed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.client.asking import ASKED_WITHIN_S, COUNT_ENDS
from tests.support.nats.servers import free_ports
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SERVICES = ("nats", "simulator", "ray-head", "dispatcher", "collector")
WELL_WITHIN_S = 300
BUILT_WITHIN_S = 900


def engine() -> str:
    """`docker` or `podman`, whichever runs containers here; fails with what is missing."""
    told = []
    for name in ("docker", "podman"):
        if shutil.which(name) is None:
            told.append(f"{name} is not installed")
            continue
        done = subprocess.run([name, "info"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return name
        told.append(f"`{name} info` says: {done.stderr.strip()[-300:]}")
    raise AssertionError("containers cannot run here: " + "; ".join(told))


def compose_command(name: str) -> list[str]:
    """Docker's own plugin, or podman-compose, which `make test-containers` installs."""
    if name == "docker":
        return ["docker", "compose"]
    beside = ROOT / ".venv-tools" / "bin" / "podman-compose"
    found = shutil.which("podman-compose") or (str(beside) if beside.exists() else None)
    assert found, "podman-compose is not installed"
    return [found]


class Stack:
    """One run of the compose file. Everything has names that begin with `project`."""

    def __init__(self, folder: Path) -> None:
        self.engine = engine()
        self.project = f"fleet-test-{os.getpid()}"
        (self.port,) = free_ports(1)
        self.env_file = folder / "env"
        self.env_file.write_text(f"NATS_PORT={self.port}\n")
        run([str(ROOT / "deploy/make-secrets")])

    def compose(self, *arguments: str, within_s: float = WELL_WITHIN_S) -> str:
        command = [*compose_command(self.engine), "-p", self.project, "--env-file", str(self.env_file)]
        return run([*command, "--profile", "simulator", *arguments], within_s=within_s)

    def build(self) -> None:
        """The image, as `deploy/README.md` says."""
        run(
            [self.engine, "build", "-f", "deploy/Dockerfile", "-t", "deliberation-fleet:0.1.0", "."],
            within_s=BUILT_WITHIN_S,
        )

    def up(self) -> None:
        self.compose("up", "--detach")
        self.until_well()

    def down(self) -> None:
        """Containers, network and volumes; the image stays."""
        self.compose("down", "--volumes")

    # ------------------------------------------------------------------------------------------------ one container

    def container(self, service: str) -> str:
        """Its id."""
        labels = [f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={service}"]
        filters = [word for label in labels for word in ("--filter", label)]
        (found,) = run([self.engine, "ps", "--all", "--quiet", "--no-trunc", *filters]).split()
        return found

    def state(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(run([self.engine, "inspect", self.container(service)]))
        state: dict[str, Any] = found["State"]
        return state

    def kill(self, service: str) -> None:
        """From outside, as the kernel kills what has no memory left; the restart policy starts it again."""
        os.kill(self.state(service)["Pid"], signal.SIGKILL)

    def drain(self, service: str) -> int:
        """SIGTERM, and the time that the compose file gives; started again afterwards. Returns its exit status."""
        self.compose("stop", service)
        status: int = self.state(service)["ExitCode"]
        self.compose("start", service)
        return status

    def inside(self, service: str, *command: str) -> str:
        return run([self.engine, "exec", self.container(service), *command])

    def until_started_since(self, service: str, before: str) -> None:
        """Its container is another run than the one that began at `before`."""
        until(lambda: self.state(service)["StartedAt"] != before, self.told, WELL_WITHIN_S)

    def well(self, service: str) -> bool:
        """By its own health check. Podman runs none by itself where there is no systemd."""
        if not self.state(service)["Running"]:
            return False
        if self.engine == "podman":
            return succeeds([self.engine, "healthcheck", "run", self.container(service)])
        return bool(self.state(service)["Health"]["Status"] == "healthy")

    def until_well(self) -> None:
        until(lambda: all(map(self.well, SERVICES)), self.told, WELL_WITHIN_S)

    def told(self) -> str:
        """What the containers said last."""
        command = [self.engine, "logs", "--tail", "20"]
        return "\n".join(f"== {name}\n{run([*command, self.container(name)], both=True)}" for name in SERVICES)

    # ------------------------------------------------------------------------------------------------------- asking

    def as_client(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs `command` outside, as the user `client`, by the port that is published."""
        password = (ROOT / "deploy/secrets/nats_client_password").read_text()
        url = f"nats://client:{password}@127.0.0.1:{self.port}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "FLEET_"))}
        return subprocess.run(
            command, input=stdin, env=environ | {"NATS_URL": url}, capture_output=True, text=True, check=False
        )

    def ask(self, question: str) -> subprocess.CompletedProcess[str]:
        fleet = str(Path(sys.executable).parent / "fleet")
        return self.as_client("timeout", str(ASKED_WITHIN_S), fleet, "ask", "--json", question)

    def ends(self) -> dict[str, int]:
        """Task -> how many terminal events there are of it."""
        done = self.as_client(sys.executable, "-", stdin=COUNT_ENDS)
        assert done.returncode == 0, done.stderr
        counted: dict[str, int] = json.loads(done.stdout)
        return counted


def run(command: Sequence[str], *, within_s: float = 60, both: bool = False) -> str:
    """Standard output, or `both`; whatever fails is told with what it said."""
    environ = dict(os.environ)
    if conf := environ.get("CONTAINERS_CONF"):  # podman build reads it from other directories, too
        environ["CONTAINERS_CONF"] = str(ROOT / conf)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=within_s, check=False)
    said = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{said}"
    return done.stdout + done.stderr if both else done.stdout


def succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def until(fact: Callable[[], bool], told: Callable[[], str], within_s: float) -> None:
    try:
        wait_until(fact, within_s, pause_s=0.5)
    except TimeoutError:
        raise AssertionError(told()) from None
