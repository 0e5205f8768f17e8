"""Remembers where a fleet runs, in its data directory, so that clients on the same machine find it.

The directories of the fleets that run are noted once more, for their user alone, so that commands find a fleet from any
directory.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from fleet import config
from fleet.config import Settings
from fleet.errors import ConfigError
from fleet.secret_files import file_of, overlaid

DEFAULT_DATA_DIR = Path(".fleet")
DEFAULT_PORT = 4222
_FILE = "fleet.json"


def remember(data_dir: Path, facts: Mapping[str, Any]) -> None:
    """Replaces what was remembered, at once. For its owner alone: addresses may hold passwords."""
    fresh = data_dir / f"{_FILE}.new"
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(facts, indent=2) + "\n")
    fresh.replace(data_dir / _FILE)
    if "supervisor" in facts:
        _note(data_dir, facts["supervisor"])


def recall(data_dir: Path) -> dict[str, Any]:
    """Empty when nothing runs there."""
    try:
        facts: dict[str, Any] = json.loads((data_dir / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return facts


def forget(data_dir: Path) -> None:
    """The fleet of `data_dir` has ended."""
    (data_dir / _FILE).unlink(missing_ok=True)
    for note in _notes():
        if note.stem == str(os.getpid()):
            note.unlink(missing_ok=True)


def running(data_dir: Path) -> dict[str, Any]:
    """What is remembered of the fleet of `data_dir`; in the default directory, where none runs, of the one that runs
    elsewhere. Raises `ConfigError` where that is none in particular."""
    if (known := recall(data_dir)) or data_dir != DEFAULT_DATA_DIR:
        return known
    fleets = {directory: facts for directory in _noted() if (facts := recall(directory))}
    if len(fleets) > 1:
        default = f":{DEFAULT_PORT}"
        fleets = {
            where: facts for where, facts in fleets.items() if str(facts.get("nats_url")).endswith(default)
        } or fleets
    if len(fleets) > 1:
        places = ", ".join(map(str, fleets))
        raise ConfigError(f"several fleets run on this machine: say which one with --data-dir ({places})")
    return next(iter(fleets.values()), {})


def running_on(nats_url: str, data_dir: Path) -> dict[str, Any]:
    """What is remembered of the fleet on this machine that has this NATS; empty where there is none."""
    return next((facts for each in (data_dir, *_noted()) if (facts := recall(each)).get("nats_url") == nats_url), {})


def _note(data_dir: Path, pid: int) -> None:
    """Without a place for it, in a container say, there is none."""
    try:
        _place().mkdir(mode=0o700, parents=True, exist_ok=True)
        note = _place() / f"{pid}.json"
        note.touch(mode=0o600)
        note.write_text(json.dumps({"data_dir": str(data_dir.absolute())}))
    except OSError:
        return


def _place() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime) if runtime else Path.home() / ".local" / "state") / "deliberation-fleet"


def _notes() -> list[Path]:
    try:
        return sorted(_place().glob("*.json"))
    except (OSError, RuntimeError):  # nobody's home
        return []


def _noted() -> Iterator[Path]:
    """Of fleets that run; what one has left that was killed is deleted."""
    for note in _notes():
        with suppress(OSError, ValueError, KeyError):
            if psutil.pid_exists(int(note.stem)):
                yield Path(json.loads(note.read_text())["data_dir"])
            else:
                note.unlink()


def client_settings(data_dir: Path, nats_url: str | None = None) -> Settings:
    """Settings for a client: NATS is where it is said to be, else where the fleet of `data_dir` has it, or the one that
    runs."""
    is_set = nats_url or os.environ.get("NATS_URL") or os.environ.get(file_of("NATS_URL"))
    known = None if is_set else running(data_dir).get("nats_url")
    environ = overlaid(os.environ, NATS_URL=nats_url) if nats_url else dict(os.environ)
    settings = config.load(environ)
    if settings.nats_url is None and known:
        settings = config.load({**environ, "NATS_URL": known})
    return settings


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Holds the data directory for this process alone. Raises `ConfigError` when another fleet has it."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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
