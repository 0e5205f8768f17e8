"""Names the tasks of tenants: a tenant is an account of NATS, whose subjects have a prefix in the fleet's own.

    in the tenant's account    in the fleet's                      task
    ──────────────────────────────────────────────────────────────────────────────
    deliberation.completed     tenant.<T>.deliberation.completed   `<T>.<task_id>`
    (there is no other one)    deliberation.completed              `<task_id>`

Inside the fleet a task goes by its key, so that ids of two tenants never meet: states, calls, deadlines, message ids
and objects carry it. Events and replies carry the tenant and the id that its client knows. An id has no dot.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fleet import subjects

DEFAULT_TENANT: Final = "default"
"""Whose a request is that no tenant's account has sent. Its subjects have no prefix, its keys are its ids."""
PREFIX: Final = "tenant"
EVERY: Final = "*"
"""Stands for any tenant, in patterns."""
TEXT: Final = "deliberation.text"
"""Endpoint for tenants alone, whose accounts have no JetStream: what their results refer to."""
TEXT_MESSAGES: Final[Mapping[str, str]] = {"request": "ContentRef", "reply": "bytes of the text, ServiceError"}
NAME: Final = r"^(?!default\Z)[A-Za-z0-9_-]{1,32}\Z"
"""Of an account that is a tenant."""
_NAME = re.compile(NAME)


class TaskName(NamedTuple):
    """A task as its client knows it."""

    tenant: str
    task_id: str


def is_name(tenant: str) -> bool:
    """Whether an account can be a tenant under this name."""
    return _NAME.fullmatch(tenant) is not None


def key_of(tenant: str, task_id: str) -> str:
    """How the fleet names a task: the key of its state."""
    return task_id if tenant == DEFAULT_TENANT else f"{tenant}.{task_id}"


def name_of(key: str) -> TaskName:
    """Whose task this is, and how its client calls it."""
    tenant, dot, task_id = key.partition(".")
    return TaskName(tenant, task_id) if dot else TaskName(DEFAULT_TENANT, key)


def is_key(key: str) -> bool:
    """Whether there can be a state under this key."""
    tenant, task_id = name_of(key)
    return subjects.is_task_id(task_id) and (tenant == DEFAULT_TENANT or is_name(tenant))


def subject_of(tenant: str, subject: str) -> str:
    """A subject of this tenant, or of `EVERY` one, as the fleet's account has it."""
    return subject if tenant == DEFAULT_TENANT else f"{PREFIX}.{tenant}.{subject}"


def of_all(*plain: str) -> tuple[str, ...]:
    """These subjects, and patterns for the same ones of every tenant."""
    return (*plain, *(subject_of(EVERY, subject) for subject in plain))


def tenant_of(subject: str) -> str:
    """Whose a subject is."""
    first, _, rest = subject.partition(".")
    return rest.partition(".")[0] if first == PREFIX else DEFAULT_TENANT


def without_tenant(subject: str) -> str:
    """The subject as the tenant's own account has it."""
    first, _, rest = subject.partition(".")
    return rest.partition(".")[2] if first == PREFIX else subject


def tokens_on(tenant: str, day: str) -> str:
    """Where a tenant's tokens of one day, such as 2026-01-31, are counted."""
    return f"{PREFIX}.{tenant}.tokens.{day}"


def requests_of(tenant: str) -> str:
    """The stream of a tenant's requests; `EVERY`: what permissions have in its place."""
    if tenant in (DEFAULT_TENANT, EVERY):
        return subjects.DELIBERATION_REQUESTS if tenant == DEFAULT_TENANT else EVERY
    return f"{subjects.DELIBERATION_REQUESTS}_{tenant}"


def holds_requests(stream: str) -> bool:
    """Whether it is the stream of some tenant's requests."""
    return stream == subjects.DELIBERATION_REQUESTS or stream.startswith(f"{subjects.DELIBERATION_REQUESTS}_")


def key_of_event(subject: str, headers: Mapping[str, Any] | None) -> str:
    """The key of the task that an event is about: its header `Task-Id` has the id that its tenant knows."""
    return key_of(tenant_of(subject), str((headers or {}).get("Task-Id", "")))
