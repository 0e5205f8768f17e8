"""A whole fleet for measuring and breaking: `fleet up` on servers of its own, a simulated model, further replicas.

What benchmarks and fault injection have in common. Everything runs on loopback, as children of this process.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fleet.config import unconfigured
from fleet.local import ray_head
from fleet.local.data_dir import recall
from fleet.local.supervisor import Child

GRACE_S = 40.0
"""Within which `fleet up`, or a replica, ends."""
MODEL_GRACE_S = 2.0


class Testbed:
    """Makes the children of one fleet. Whoever uses it starts and stops them.

    `where` tells NATS_URL, VLLM_URL and whatever else configures the fleet; it is asked before each start.
    """

    def __init__(self, data_dir: Path, config: str, where: Callable[[], Mapping[str, str]]) -> None:
        self.data_dir = data_dir
        self.logs = data_dir / "logs"
        self._config = config
        self._where = where

    def prepare(self) -> None:
        """Makes the folders, and writes the fleet's configuration."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._config_file.write_text(self._config)

    def environ(self) -> dict[str, str]:
        """Nothing of ours that would configure a fleet otherwise."""
        own = {"AGENT_TYPE": "vllm", "FLEET_CONFIG": str(self._config_file)}
        return {**unconfigured(os.environ), **own, **self._where()}

    def child(self, name: str, command: Callable[[], Sequence[str]]) -> Child:
        """A process with the fleet's environment; its log is `logs/<name>.log`."""
        return Child(name, command, environ=self.environ, log_file=self.logs / f"{name}.log")

    def fleet_up(self) -> Child:
        """`fleet up`."""
        directory = str(self._fleet_dir)
        command = [sys.executable, "-m", "fleet.cli", "up", "--json", "--data-dir", directory]
        return self.child("fleet-up", lambda: command)

    def simulator(self, arguments: Callable[[], Sequence[str]]) -> Child:
        """The simulated model server; `arguments` are asked before each start."""
        return self.child("simulator", lambda: [sys.executable, "-m", "workers.simulator", *arguments()])

    def replica(self, name: str, *command: str, more: Callable[[], Mapping[str, str]] = dict) -> Child:
        """One more process of the fleet that `fleet_up` has started: it joins its Ray. `more`: of its next start."""

        def environ() -> dict[str, str]:
            ray = {"RAY_ADDRESS": recall(self._fleet_dir).get("ray_address") or ""}
            return {**self.environ(), **ray, **ray_head.credentials(self._fleet_dir), **more()}

        log_file = self.logs / f"{name}.log"
        return Child(name, lambda: [sys.executable, *command], environ=environ, log_file=log_file)

    @property
    def _config_file(self) -> Path:
        return self.data_dir / "fleet.toml"

    @property
    def _fleet_dir(self) -> Path:
        return self.data_dir / "fleet"
