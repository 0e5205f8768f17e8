"""Finds under which key a request was recorded, if it was."""

from fleet import subjects
from fleet.control.states.store import StateStore
from fleet.tenants.names import key_of, name_of


async def recorded_as(store: StateStore, key: str, sequence: int, own: str) -> str | None:
    """Its key, or the second one that a request without an id may have: that goes first, as only this request has it.

    `sequence`: of the request; `own`: its message id, or its run. Raises what the store does.
    """
    tenant, task_id = name_of(key)
    keys = [key]
    if task_id == subjects.generated_id(sequence):
        keys.insert(0, key_of(tenant, subjects.second_id(sequence, own)))
    for known in keys:
        if await store.load(known) is not None:
            return known
    return None
