"""Makes the key that equal requests share: everything that decides what the council is, what it is asked and what is
made of its answers.

That is the request without what changes no work, the settings of its roles, models, judges and model servers, and the
code of prompts, checks and ranking. So a persona or a prompt that is changed leads to other keys, and no old result is
found.
"""

import functools
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec

from fleet.config import Settings
from fleet.deliberation.rating.judging import CHOOSER_ROLE
from fleet.requests.task import Task

CODE = ("fleet.deliberation", "workers")
_ENCODER = msgspec.json.Encoder(order="deterministic")


class CacheKeys:
    """Of the settings of one process, which do not change while it runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of(self, tenant: str, task: Task) -> str:
        """The same for equal requests of one tenant, and for no others."""
        roles = dict.fromkeys((task.role, *task.roles, *((CHOOSER_ROLE,) if task.selection == "architect" else ())))
        profiles = {role: self._settings.roles.get(role) for role in roles}
        parts = (tenant, _work_of(task), profiles, self._servers, code_digest())
        return hashlib.sha256(_ENCODER.encode(parts)).hexdigest()

    @functools.cached_property
    def _servers(self) -> Any:
        """Which model answers to which name, and what its requests hold. Keys, limits and prices change no answer."""
        servers = self._settings.model_servers
        asked = {name: (server.kind, server.url, server.models, server.request) for name, server in servers.items()}
        return self._settings.vllm_model, self._settings.models, self._settings.judges, asked


def _work_of(task: Task) -> Task:
    """Without what decides when it is done, and who is told."""
    plain = Task(task_description="")
    return task.change(
        timeout_seconds=plain.timeout_seconds,
        priority=plain.priority,
        correlation=plain.correlation,
        cache=plain.cache,
    )


@functools.cache
def code_digest() -> str:
    """Of all that prompts are made by, and results of answers."""
    digest = hashlib.sha256()
    for package in CODE:
        for name, source in sorted(_sources(files(package), package)):
            digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _sources(each, f"{name}/{each.name}")
        elif each.name.endswith(".py"):
            yield f"{name}/{each.name}", each.read_bytes()
