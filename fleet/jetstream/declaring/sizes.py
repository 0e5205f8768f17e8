"""Tells NATS how large each stream may be, and where it is stored."""

from typing import Any

from nats.js.api import StorageType

from fleet.config import Settings
from fleet.limits.streams import OF_TENANTS


def size_config(settings: Settings, stream: str) -> dict[str, Any]:
    """`max_bytes` and `storage`; also of the stream behind a bucket."""
    limits = settings.streams.get(stream) or OF_TENANTS
    return {"max_bytes": limits.max_bytes, "storage": StorageType(limits.storage)}
