"""Runs the model server of a fleet that was given none: the simulator, or a small real model on the CPU."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from fleet.errors import ConfigError
from fleet.local.supervisor import Child

MOST_TOKENS = 200
"""Longest answer of the local model: enough for the JSON of a review, short enough to be waited for."""

Kind = Literal["simulated", "local"]


class OwnModel:
    """`simulator` are extra arguments of the simulator. Raises `ConfigError` where the local model is not installed."""

    def __init__(self, kind: Kind, data_dir: Path, logs: Path, simulator: Sequence[str] = ()) -> None:
        self._simulator = simulator
        self._port = 0
        """A free one at first, the same one after a restart."""
        self._short_answers = data_dir / "local-model.toml" if kind == "local" else None
        """The settings of a fleet on the local model: on a CPU every token is waited for."""
        if kind == "local":
            from workers import local_model

            if not local_model.available():
                raise ConfigError(f"the local model is not installed: {local_model.INSTALL}")
            self.child = Child(
                "local-model", lambda: local_model.command(self._port), log_file=logs / "local-model.log"
            )
        else:
            self.child = Child("simulator", self._simulate, log_file=logs / "simulator.log")
        self.agent_type: Literal["vllm", "mock"] = "vllm" if kind == "local" else "mock"

    async def start(self, roles: Iterable[str]) -> str:
        """Its URL, once it answers. `roles`: those whose answers are kept short, where it is slow."""
        url = (await self.child.start()).rstrip("/")
        self._port = int(url.rpartition(":")[2])
        if self._short_answers is not None:
            self._short_answers.write_text("".join(f"[roles.{role}]\nmax_tokens = {MOST_TOKENS}\n" for role in roles))
        return url

    def environ(self) -> dict[str, str]:
        """What the components need beside its URL. A configuration of the user's own comes first."""
        own = "FLEET_CONFIG" in os.environ or self._short_answers is None
        return {} if own else {"FLEET_CONFIG": str(self._short_answers)}

    def _simulate(self) -> list[str]:
        return [sys.executable, "-m", "workers.simulator", "--port", str(self._port), *self._simulator]
