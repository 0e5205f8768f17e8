"""Collects the files of the page, and tells it where NATS is."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from fleet.errors import ConfigError

STATIC = Path(__file__).parent / "static"
NAMES = ("index.html", "page.css", "page.js")
SETTINGS = "settings.json"


def settings(servers: Sequence[str]) -> bytes:
    """`settings.json`. `servers`: WebSocket URLs of NATS; none: port 9222 of the host that the page comes from."""
    return json.dumps({"servers": list(servers)}).encode()


def write(folder: Path, servers: Sequence[str]) -> None:
    """All files, for any web server. Raises `ConfigError` where they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            shutil.copyfile(STATIC / name, folder / name)
        (folder / SETTINGS).write_bytes(settings(servers))
    except OSError as error:
        raise ConfigError(f"--out: cannot write to {folder}: {error.strerror}") from None
