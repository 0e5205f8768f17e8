"""Compares a stream, consumer or bucket with its declaration."""

from collections.abc import Mapping
from typing import Any, TypeVar

from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from fleet import subjects
from fleet.errors import ConfigError
from fleet.jetstream.declaring import ownership
from fleet.stream_limits import DEFAULTS


def differences(existing: Any, wanted: Any) -> Mapping[str, tuple[Any, Any]]:
    """Field -> (as it is, as it should be), for the fields that are set in `wanted`."""
    found: dict[str, tuple[Any, Any]] = {}
    for field, value in vars(wanted).items():
        if value is None or field == "name":
            continue
        actual = getattr(existing, field)
        if field == "filter_subject" and existing.filter_subjects:
            first, *others = existing.filter_subjects
            actual = existing.filter_subjects if others else first
        if field == "metadata":
            actual = {key: (actual or {}).get(key) for key in value}
        if isinstance(value, float) and isinstance(actual, int | float):
            same = abs(value - actual) < 1e-6
        else:
            same = actual == value or (not actual and not value)
        if not same:
            found[field] = (actual, value)
    return found


def drift(existing: Any, wanted: Any) -> Mapping[str, tuple[Any, Any]]:
    """`differences` that are mended. What an operator has set of a stream stays: another description, more replicas,
    another limit of bytes where no setting names one.
    """
    found = dict(differences(existing, wanted))
    if existing.description:
        found.pop("description", None)
    if not isinstance(existing, StreamConfig):
        return found
    default = DEFAULTS.get(str(existing.name))
    if (existing.max_bytes or 0) > 0 and (default is None or wanted.max_bytes == default.max_bytes):
        found.pop("max_bytes", None)
    if (existing.num_replicas or 1) > (wanted.num_replicas or 1):
        found.pop("num_replicas", None)
        if existing.name == subjects.STATES:  # then a direct get may answer with an old state
            found.pop("allow_direct", None)
            if existing.allow_direct:
                found["allow_direct"] = (True, False)
    return found


def refuse_other_storage(stream: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises `ConfigError` for what NATS would refuse."""
    if "storage" in changes:
        existing, wanted = (StorageType(value).value for value in changes["storage"])
        raise ConfigError(
            f"streams.{stream}.storage: it lies in {existing} and should in {wanted}, which NATS cannot change: "
            "set it as it is, or delete the stream and what is in it"
        )


Config = TypeVar("Config", StreamConfig, ConsumerConfig)


def changed(existing: Config, changes: Mapping[str, tuple[Any, Any]]) -> Config:
    """What differs, and nothing else: an operator may have set what the fleet has no opinion on."""
    wanted = {field: value for field, (_, value) in changes.items()}
    if "metadata" in wanted:
        wanted["metadata"] = ownership.with_mark(existing.metadata, wanted["metadata"][ownership.MARK])
    if "filter_subject" in wanted:
        wanted["filter_subjects"] = None
    return existing.evolve(**wanted)
