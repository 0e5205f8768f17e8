"""Where a fleet runs, remembered in its data directory so that clients on the same machine find it."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet import config
from fleet.config import Settings
from fleet.errors import ConfigError

DEFAULT_DATA_DIR = Path(".fleet")
_FILE = "fleet.json"


def remember(data_dir: Path, facts: Mapping[str, Any]) -> None:
    """Replaces what was remembered, at once. For its owner alone: addresses may hold passwords."""
    fresh = data_dir / f"{_FILE}.new"
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(facts, indent=2) + "\n")
    fresh.replace(data_dir / _FILE)


def recall(data_dir: Path) -> dict[str, Any]:
    """Empty when nothing runs there."""
    try:
        facts: dict[str, Any] = json.loads((data_dir / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return facts


def forget(data_dir: Path) -> None:
    (data_dir / _FILE).unlink(missing_ok=True)


def client_settings(data_dir: Path, nats_url: str | None = None) -> Settings:
    """Settings for a client: NATS is where it is said to be, else where the fleet of `data_dir` has it."""
    known = recall(data_dir).get("nats_url")
    environ = dict(os.environ)
    if nats_url:
        environ["NATS_URL"] = nats_url
    settings = config.load(environ)
    if settings.nats_url is None and known:
        settings = config.load({**environ, "NATS_URL": known})
    return settings


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Holds the data directory for this process alone. Raises `ConfigError` when another fleet has it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("a+")
    except OSError as error:
        raise ConfigError(f"--data-dir: cannot use {data_dir}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ConfigError(
                f"another fleet (pid {lock.read().strip() or 'unknown'}) runs on {data_dir}: "
                "use it, stop it, or choose another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
