"""Tells which models the roles of a task share, and whether those that roles ask for are available, by what workers
report of their servers.
"""

import time
from collections.abc import Iterator, Mapping

import structlog
from nats.aio.msg import Msg

from fleet import subjects
from fleet.config import RoleProfile, Settings
from fleet.deliberation.drawing import RoleModels
from fleet.jetstream.origin import published
from fleet.messages import UNDECODABLE, Judge, decode
from fleet.messages.workers import EndpointStatus, WorkerStatus
from fleet.model_servers import only_for_judges, seats_of
from fleet.observability.health import Observation
from fleet.requests.task import Task

log = structlog.get_logger(__name__)

SILENT_S = 15.0
"""Five times as long as workers wait between two statuses."""


class Models:
    """A server counts as there while one worker says so, or none has asked it yet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._told: dict[str, tuple[float, WorkerStatus]] = {}
        self.seats = seats_of(settings.model_servers, settings.judges, settings.models)
        """Calls that all servers take at once, if that is known."""

    async def hear(self, msg: Msg) -> None:
        """What a worker tells of itself."""
        if not published(msg, msg.subject) or not msg.subject.startswith(subjects.status_of("")):
            return
        try:
            status = decode(msg.data, WorkerStatus)
        except UNDECODABLE:
            return  # it is forgotten, or of a later version
        self._told[status.name] = time.monotonic(), status

    def seen(self) -> Observation:
        """A problem where some model has no server left, its fallbacks included."""
        answering = self._answering()
        silent = sorted(name for name, answers in answering.items() if not answers)
        missing = {
            model or "any model": servers
            for model in self._needed()
            if (servers := set(self._servers(model))) and servers <= {*silent}
        }
        if missing:
            text = "; ".join(f"{model}: {', '.join(sorted(servers))}" for model, servers in missing.items())
            return Observation(False, f"no model server answers for {text}")
        return Observation(True, f"model servers that do not answer: {', '.join(silent)}" if silent else "")

    def _answering(self) -> dict[str, bool]:
        """Server -> whether it answers some worker that has told of it lately."""
        now = time.monotonic()
        self._told = {name: (at, status) for name, (at, status) in self._told.items() if now - at < SILENT_S}
        answering: dict[str, bool] = {}
        for _, status in self._told.values():
            for endpoint in status.endpoints:
                answering[endpoint.name] = answering.get(endpoint.name, False) or _may_answer(endpoint)
        return answering

    def _needed(self) -> set[str | None]:
        """None: whatever a server lists first."""
        roles, default = self._settings.roles.values(), self._settings.vllm_model
        return {
            name or default
            for role in roles
            for name in (*(role.models or (role.model,)), role.judge_model or role.usual_model)
        }

    def _servers(self, model: str | None) -> Iterator[str]:
        """All that may be asked for it, or for what stands in for it."""
        for name in self._chain(model):
            alias = self._settings.models.get(name or "")
            allowed, called = (alias.endpoints, alias.name or name) if alias else (None, name)
            for server, config in self._settings.model_servers.items():
                if server in only_for_judges(self._settings.judges):
                    continue
                lists = config.models is None or called is None or called in config.models
                if lists and (allowed is None or server in allowed):
                    yield server

    def _chain(self, model: str | None) -> list[str | None]:
        """The model, its fallbacks, and theirs."""
        chain = [model]
        for name in chain:
            alias = self._settings.models.get(name or "")
            chain += [each for each in (alias.fallbacks if alias else ()) if each not in chain]
        return chain


def _may_answer(endpoint: EndpointStatus) -> bool:
    return endpoint.answers is not False and endpoint.breaker != "open"


def judges_of(settings: Settings) -> tuple[Judge, ...]:
    """Those of the settings, by name."""
    return tuple(
        Judge(name=name, kind=judge.kind, model=judge.model, endpoint=judge.endpoint, timeout_s=judge.timeout_s)
        for name, judge in sorted(settings.judges.items())
    )


def models_of_roles(task: Task, roles: Mapping[str, RoleProfile]) -> dict[str, RoleModels]:
    """Of the task's roles that share their calls between several models."""
    profiles = {role: roles[role] for role in (task.role, *task.roles)}
    return {
        role: RoleModels(shares=profile.models, judge=profile.judge_model)
        for role, profile in profiles.items()
        if profile.models
    }
