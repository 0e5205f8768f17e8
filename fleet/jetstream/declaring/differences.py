"""Compares a stream, consumer or bucket with its declaration."""

from collections.abc import Mapping
from typing import Any, TypeVar

from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from fleet import subjects
from fleet.errors import ConfigError
from fleet.jetstream.declaring import ownership
from fleet.limits.streams import DEFAULTS


def differences(existing: Any, declared: Any) -> Mapping[str, tuple[Any, Any]]:
    """Field -> (as it is, as it should be), for the fields that are set in `declared`."""
    differing: dict[str, tuple[Any, Any]] = {}
    for field, value in vars(declared).items():
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
            differing[field] = (actual, value)
    return differing


def drift(existing: Any, declared: Any) -> Mapping[str, tuple[Any, Any]]:
    """`differences` that are mended. What an operator has set of a stream stays: another description, more replicas,
    another limit of bytes where no setting names one.
    """
    differing = dict(differences(existing, declared))
    if existing.description:
        differing.pop("description", None)
    if not isinstance(existing, StreamConfig):
        return differing
    default = DEFAULTS.get(str(existing.name))
    if (existing.max_bytes or 0) > 0 and (default is None or declared.max_bytes == default.max_bytes):
        differing.pop("max_bytes", None)
    if (existing.num_replicas or 1) > (declared.num_replicas or 1):
        differing.pop("num_replicas", None)
        if existing.name == subjects.STATES:  # then a direct get may answer with an old state
            differing.pop("allow_direct", None)
            if existing.allow_direct:
                differing["allow_direct"] = (True, False)
    return differing


def refuse_other_storage(stream: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises `ConfigError` for what NATS would refuse."""
    if "storage" in changes:
        existing, declared = (StorageType(value).value for value in changes["storage"])
        raise ConfigError(
            f"streams.{stream}.storage: the stream is in {existing}, the setting says {declared}, and NATS cannot "
            f"change that: set it to {existing}, or delete the stream and what is in it"
        )


Config = TypeVar("Config", StreamConfig, ConsumerConfig)


def changed(existing: Config, changes: Mapping[str, tuple[Any, Any]]) -> Config:
    """What differs, and nothing else: an operator may have set what the fleet has no opinion on."""
    declared = {field: value for field, (_, value) in changes.items()}
    if "metadata" in declared:
        declared["metadata"] = ownership.with_own(existing.metadata, declared["metadata"])
    if "filter_subject" in declared:
        declared["filter_subjects"] = None
    return existing.evolve(**declared)
