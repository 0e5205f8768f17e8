"""Limits of the server, met while declaring: a sentence that names what was refused, and what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nats.js.errors import APIError

from fleet.errors import ConfigError

ACCOUNT = "raise that limit of the NATS account or server"
SMALLER = "lower its max_bytes under [streams.NAME] (all are set aside when they are declared)"
HELP: Mapping[int, str] = {
    10026: ACCOUNT,  # consumers
    10027: ACCOUNT,  # streams
    10028: f'{ACCOUNT}, {SMALLER}, or set its storage to "file" there',
    10047: f"{ACCOUNT}, or {SMALLER}",  # storage
    10052: "results_days and progress_minutes under [limits] must be longer than the duplicate window",
    10065: "another stream takes its subjects: give the fleet a NATS account of its own, or change that stream",
    10121: ACCOUNT,  # unacknowledged messages of a consumer
    10074: "replicas under [limits] must be 1 on a single server",
}
"""By JetStream's error code: what no waiting mends. All else may be an outage."""


@contextmanager
def told(name: str) -> Iterator[None]:
    """Raises `ConfigError` for what the server will refuse for ever. `name`: the stream, bucket or consumer."""
    try:
        yield
    except APIError as error:
        if (help_ := HELP.get(error.err_code or 0)) is None:
            raise
        raise ConfigError(f"NATS refuses {name}: {error.description}: {help_}") from None
