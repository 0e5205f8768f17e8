"""Reads sizes and storage of streams and buckets from the settings: `[streams.NAME]`, or in the environment
`FLEET_STREAM_NAME_MAX_BYTES` and `FLEET_STREAM_NAME_STORAGE` (the name in capitals, `-` as `_`).

The defaults fit a volume of 6 GiB together. NATS sets a stream's `max_bytes` aside when it is declared.
"""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from fleet import subjects
from fleet.errors import ConfigError
from fleet.tenants.names import requests_of
from fleet.undecodable import broken_rule

MIB: Final = 1024**2
GIB: Final = 1024**3
_UNITS = {"": 1, "B": 1, "K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB}
_UNITS |= {f"{unit}IB": size for unit, size in _UNITS.items() if unit not in ("", "B")}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*([0-9]{1,15})\s*([A-Za-z]{0,3})\s*")


class StreamLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one stream, or of the stream behind a bucket."""

    max_bytes: Annotated[int, Meta(ge=MIB)]
    storage: Literal["file", "memory"] = "file"


DEFAULTS: Final[Mapping[str, StreamLimits]] = {
    subjects.DELIBERATION_REQUESTS: StreamLimits(max_bytes=256 * MIB),
    subjects.DELIBERATIONS: StreamLimits(max_bytes=GIB),
    subjects.DELIBERATION_CONTROL: StreamLimits(max_bytes=128 * MIB),
    subjects.AGENT_REQUESTS: StreamLimits(max_bytes=512 * MIB),
    subjects.AGENT_RESPONSES: StreamLimits(max_bytes=GIB),
    subjects.AGENT_PROGRESS_STREAM: StreamLimits(max_bytes=256 * MIB, storage="memory"),
    subjects.DEAD_LETTERS: StreamLimits(max_bytes=256 * MIB),
    subjects.STATES: StreamLimits(max_bytes=GIB),
    subjects.TEXTS_STREAM: StreamLimits(max_bytes=GIB),
    subjects.ANSWERS_STREAM: StreamLimits(max_bytes=256 * MIB),
    subjects.KEYS_STREAM: StreamLimits(max_bytes=MIB),
    subjects.CACHE_STREAM: StreamLimits(max_bytes=16 * MIB),
    subjects.WORKERS_STREAM: StreamLimits(max_bytes=32 * MIB, storage="memory"),
}

OF_TENANTS: Final = StreamLimits(max_bytes=64 * MIB)
"""Of the stream of each tenant's requests, and of that of their counters."""


def stream_limits(
    tables: Any, environ: Mapping[str, str], path: str | None, tenants: Collection[str] = ()
) -> dict[str, StreamLimits]:
    """The defaults, overlaid with the file's and the environment's. Raises `ConfigError` that names the setting."""
    defaults = {**DEFAULTS, **{requests_of(tenant): OF_TENANTS for tenant in tenants}}
    if tenants:
        defaults[subjects.TENANT_TOKENS] = OF_TENANTS
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{path}: streams: expected a table [streams.NAME] for each stream")
    if unknown := tables.keys() - defaults.keys():
        raise ConfigError(f"{path}: streams.{min(unknown)}: no such stream, expected one of {', '.join(defaults)}")
    limits = {}
    for name, default in defaults.items():
        values = msgspec.structs.asdict(default)
        values |= {key: (value, f"{path}: streams.{name}.{key}") for key, value in tables.get(name, {}).items()}
        for key in StreamLimits.__struct_fields__:
            setting = f"FLEET_STREAM_{name.upper().replace('-', '_')}_{key.upper()}"
            if value := environ.get(setting, "").strip():
                values[key] = (value, setting)
        limits[name] = _converted(values)
    return limits


def _converted(values: dict[str, Any]) -> StreamLimits:
    """Each value is a default, or a pair of what was set and where."""
    settings = {key: value[1] for key, value in values.items() if isinstance(value, tuple)}
    plain = {key: value[0] if isinstance(value, tuple) else value for key, value in values.items()}
    if "max_bytes" in settings:
        plain["max_bytes"] = _bytes(plain["max_bytes"], settings["max_bytes"])
    try:
        return msgspec.convert(plain, StreamLimits)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{', '.join(settings.values())}: {broken_rule(str(error), kind=StreamLimits)}") from None


def _bytes(value: Any, setting: str) -> int:
    """`2GiB`, `500 MB`, or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"{setting}: expected a size as 500MB or 2GiB, got {value!r}")
    return int(match[1]) * _UNITS[match[2].upper()]
