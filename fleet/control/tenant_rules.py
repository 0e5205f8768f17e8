"""Rejects what the settings of a tenant do not allow in a request."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import get_args

from fleet.config import Settings
from fleet.control.publishing.token_counters import TokenCounters
from fleet.deliberation.rating.judging import CHOOSER_ROLE
from fleet.errors import BadRequest
from fleet.messages import Priority
from fleet.requests.task import Task
from fleet.tenants.limits import Tenant
from fleet.tenants.names import name_of

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""Lowest first."""


class TenantRules:
    """The rules of all tenants of the settings."""

    def __init__(self, settings: Settings, counters: TokenCounters) -> None:
        self._settings = settings
        self._counters = counters

    def has_budget(self, name: str) -> bool:
        """Whether the tenant may use so many tokens a day, and no more."""
        tenant = self._settings.tenants.get(name)
        return tenant is not None and tenant.tokens_per_day is not None

    async def check(self, key: str, task: Task, begun: Callable[[], Awaitable[str | None]]) -> None:
        """Raises `BadRequest` with the code `forbidden` or `budget`, and what NATS and `begun` raise. `begun`: whether
        there is a task of that key. Its first answer stands, and its request may have come again.
        """
        name, task_id = name_of(key)
        if name not in self._settings.tenants:
            return
        tenant = self._settings.tenants[name]
        why: tuple[str, str, str] | None = None
        if (forbidden := forbidden_model(tenant, models_of(task, self._settings))) is not None:
            path, model = forbidden
            why = "forbidden", path, f"{path}: {_refusal(name, model)}"
        elif PRIORITIES.index(task.priority) > PRIORITIES.index(tenant.max_priority):
            path = "$.priority"
            why = "forbidden", path, f"{path}: the tenant {name} may ask with {tenant.max_priority} at most"
        elif (most := tenant.tokens_per_day) is not None and (used := await self._counters.used_today(name)) >= most:
            why = "budget", "$", f"$: the tenant {name} has used {used:,} tokens today (UTC), of {most:,}"
        if why is not None and await begun() is None:
            raise BadRequest(*why, task_id=task_id, correlation=task.correlation or None)


def models_of(task: Task, settings: Settings) -> Iterator[tuple[str, str | None]]:
    """Each model that a request may come to, with the field that brings it. None: whatever a server lists."""
    roles, default = settings.roles, settings.vllm_model
    yield from (("$.options.models", model) for model in task.models)
    for profile in (roles[role] for role in dict.fromkeys((task.role, *task.roles))):
        if not task.models:
            writing = tuple(profile.models or ()) or (profile.usual_model or default,)
            judging = (profile.judge_model,) if profile.judge_model else ()
            yield from (("$.role", model) for model in (*writing, *judging))
        yield from (("$.role", model) for model in profile.shadow)
    if task.selection == "architect":  # no member of the council
        chooser = roles.get(CHOOSER_ROLE)
        of_role = (chooser.judge_model or chooser.usual_model) if chooser else None
        yield "$.options.selection", of_role or default


def _refusal(tenant: str, model: str | None) -> str:
    if model is None:
        return f"no model is named, and the tenant {tenant} may use certain ones only"
    return f"the tenant {tenant} may not use the model: {model}"


def forbidden_model(tenant: Tenant, models: Iterable[tuple[str, str | None]]) -> tuple[str, str | None] | None:
    """The first of these that the tenant may not use, with its field. What a server lists may be anything."""
    if tenant.models is None:
        return None
    return next(((path, model) for path, model in models if model not in tenant.models), None)
