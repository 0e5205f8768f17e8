"""Defines what a call looks for among the model servers, and what it gets."""

from collections.abc import Collection, Sequence

from msgspec import Struct

from fleet.tenants.names import name_of
from workers.llm.requests import ModelTarget
from workers.llm.servers.endpoint import Endpoint


class Route(Struct, frozen=True):
    """Where an attempt goes, and for which model."""

    endpoint: Endpoint
    target: ModelTarget


class Search(Struct, frozen=True, kw_only=True):
    """What a call looks for. `failed`: the endpoint of its last attempt, if that failed; `unreachable`: before the
    model had begun. `refused`: pairs of endpoint and model that will not take this call. `suspect`: this call may be
    what servers fail at.
    """

    targets: Sequence[ModelTarget]
    task_id: str = ""
    failed: Endpoint | None = None
    unreachable: bool = False
    refused: Collection[tuple[str, str | None]] = frozenset()
    suspect: bool = False
    expected_tokens: int = 0

    @property
    def tenant(self) -> str:
        return name_of(self.task_id).tenant


class Nowhere(Exception):
    """Every endpoint has refused this call."""
