"""Whose a stream is. Names are fixed and an account may be shared: what others have made is never changed.

Streams, consumers and buckets carry the name of their fleet. What an older version has made carries none: it is the
fleet's if it takes exactly the fleet's subjects and, where all buckets of that name do, is described as the fleet's.
"""

from collections.abc import Collection, Mapping

from nats.js.api import StreamConfig

from fleet.errors import ConfigError

MARK = "fleet"
"""The key in the metadata; the value is `FLEET_NAME`."""


def mark(fleet: str) -> dict[str, str]:
    """What streams, consumers and buckets of this fleet have in their metadata."""
    return {MARK: fleet}


def owner(config: StreamConfig) -> str | None:
    """Whose it is marked as."""
    return (config.metadata or {}).get(MARK)


def with_own(existing: Mapping[str, str] | None, own: Mapping[str, str]) -> dict[str, str]:
    """The metadata that others may have set stays; what begins with `_nats.` is the server's."""
    kept = {key: value for key, value in (existing or {}).items() if not key.startswith("_nats.")}
    return {**kept, **own}


def check(
    existing: Mapping[str, StreamConfig],
    fleet: str,
    streams: Mapping[str, Collection[frozenset[str]]],
    stores: Mapping[str, str],
    known: Collection[str] = (),
) -> None:
    """Raises `ConfigError` before anything is changed.

    `existing`: what there is of these. `streams`: stream -> its subjects, and those of older versions. `stores`: the
    stream behind a bucket -> its description. `known`: streams that were this fleet's a moment ago, and may have lost
    their mark to somebody who reconfigured them.
    """
    before = any(_taken_over(existing.get(name), fleet, subjects) for name, subjects in streams.items())
    # Buckets had no description once: then they are the fleet's where its streams are.
    allowed = {name: {description, *(("", None) if before else ())} for name, description in stores.items()}
    refused = []
    for name, config in existing.items():
        marked = owner(config)
        if marked is None and name in known:
            continue
        if marked not in (None, fleet):
            refused.append(f"{name} belongs to fleet {marked!r}")
        elif marked is None and name in streams and frozenset(config.subjects or ()) not in streams[name]:
            refused.append(f"{name} takes {', '.join(config.subjects or ())}, and carries no mark of a fleet")
        elif marked is None and name in stores and config.description not in allowed[name]:
            refused.append(f"{name} carries no mark of a fleet")
    if refused:
        owners = sorted({marked for config in existing.values() if (marked := owner(config))} - {fleet})
        same = f", or set FLEET_NAME={owners[0]} to work with that one" if len(owners) == 1 else ""
        raise ConfigError(
            f"NATS: these streams are not those of fleet {fleet!r}: {'; '.join(refused)}. "
            f"Nothing was changed: give this fleet an account of its own{same}"
        )


def _taken_over(config: StreamConfig | None, fleet: str, subjects: Collection[frozenset[str]]) -> bool:
    """Whether the stream is this fleet's, or an older version's."""
    if config is None:
        return False
    marked = owner(config)
    return marked == fleet or (marked is None and frozenset(config.subjects or ()) in subjects)
