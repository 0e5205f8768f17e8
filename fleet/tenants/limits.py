"""Defines what the settings say of a tenant."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from fleet.tenants.names import NAME

TenantName = Annotated[str, Meta(pattern=NAME)]


class Tenant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tenants.NAME]`: what an account may have of the fleet."""

    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """Its share of tokens, beside the weights of the others, while deliberations or calls wait for room. The default
    tenant has 1."""
    max_in_flight: Annotated[int, Meta(ge=1)] | None = None
    """Of its deliberations in progress at once, over the whole fleet. Absent: `limits.max_in_flight`, for all
    together."""
    tokens_per_day: Annotated[int, Meta(ge=1)] | None = None
    """Once deliberations that ended today (UTC) have used as many, requests are rejected as `budget`; running ones
    finish. Absent: any number."""
    models: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Models that its requests may use, as roles and requests name them; others are rejected as `forbidden`. Absent:
    all."""
    max_priority: Literal["low", "normal", "high"] = "high"
    """The highest `priority` of its requests; others are rejected as `forbidden`."""
    max_waiting: Annotated[int, Meta(ge=1)] | None = None
    """Requests in its stream before NATS refuses more; absent: `limits.max_waiting_requests`."""


def weights_of(tenants: Mapping[str, Tenant]) -> dict[str, float]:
    """By name, as `fleet.tenants.sharing` wants them."""
    return {name: tenant.weight for name, tenant in tenants.items()}


METADATA = "tenant"
"""The key in the metadata of the stream of its requests."""


def as_metadata(tenant: Tenant) -> dict[str, str]:
    """As the stream of its requests tells it."""
    return {METADATA: msgspec.json.encode(tenant).decode()}


def read_metadata(metadata: Mapping[str, str]) -> Tenant | None:
    """What `as_metadata` wrote, perhaps of another version; None where there is none."""
    try:
        return msgspec.convert(msgspec.json.decode(metadata[METADATA]), Tenant, strict=False)
    except (KeyError, msgspec.MsgspecError):
        return None
