"""What of a stream, consumer or bucket is not as wanted."""

from collections.abc import Mapping
from typing import Any

from nats.js.api import StreamConfig

from fleet.jetstream import ownership


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


def changed(existing: StreamConfig, changes: Mapping[str, tuple[Any, Any]]) -> StreamConfig:
    """What differs, and nothing else: an operator may have set what the fleet has no opinion on."""
    wanted = {field: value for field, (_, value) in changes.items()}
    if "metadata" in wanted:
        wanted["metadata"] = ownership.with_mark(existing.metadata, wanted["metadata"][ownership.MARK])
    return existing.evolve(**wanted)
