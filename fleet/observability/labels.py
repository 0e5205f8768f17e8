"""Bounds the values of labels: names of the settings as they are, a few that servers list, and `other` for the rest.

A client names models and roles, and a model server names models: neither may make series without end.
"""

from collections.abc import Iterable
from typing import Final

from fleet.config import Settings

OTHER: Final = "other"
NONE: Final = "none"
"""A call that met no endpoint."""
MOST_LISTED = 20
"""Models that no setting names, and a server lists."""


class Names:
    """Known names of one label. `more`: so many others may be learned."""

    def __init__(self, known: Iterable[str], more: int = 0) -> None:
        self._known = set(known)
        self._more = more

    def of(self, name: str | None, *, listed: bool = False) -> str:
        """The value of the label. `listed`: a server tells that it has this one."""
        if not name:
            return NONE
        if name in self._known:
            return name
        if listed and self._more > 0:
            self._more -= 1
            self._known.add(name)
            return name
        return OTHER


class Labels:
    """Names of roles, models and endpoints, as far as the settings know them."""

    def __init__(self, settings: Settings) -> None:
        self.role = Names(settings.roles)
        self.endpoint = Names(settings.model_servers)
        self.model = Names(_models(settings), MOST_LISTED)


def _models(settings: Settings) -> set[str]:
    """As servers know them, and as the settings call them."""
    named = {settings.vllm_model}
    for role in settings.roles.values():
        named |= {*role.all_models}
    named |= {judge.model for judge in settings.judges.values()}
    for alias, model in settings.models.items():
        named |= {alias, model.name, model.base}
    for server in settings.model_servers.values():
        named |= {*(server.models or ())}
    return {name for name in named if name}
