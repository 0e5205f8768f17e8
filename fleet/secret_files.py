"""Secrets that lie in files, as Kubernetes and Docker mount them: `X_FILE` names the file that holds the setting X.

Errors name the setting and the file, and never what is in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fleet.errors import ConfigError

SECRETS: Final = ("NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "VLLM_URL", "VLLM_API_KEY")
"""Settings that may hold a secret. `NATS_CREDS`, `NATS_NKEY_SEED_FILE` and `NATS_KEY` name files anyway."""
SUFFIX: Final = "_FILE"
MOST_BYTES = 64 * 1024


def file_of(name: str) -> str:
    """The setting that names the file."""
    return f"{name}{SUFFIX}"


def overlaid(environ: Mapping[str, str], **values: str) -> dict[str, str]:
    """`environ` with these settings in place of its own, wherever those come from."""
    return {**{name: value for name, value in environ.items() if name not in map(file_of, values)}, **values}


def with_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with what the files say that they name. Raises `ConfigError`."""
    found = dict(values)
    for name in SECRETS:
        setting = file_of(name)
        if (path := values.get(setting)) in (None, ""):
            continue
        if values.get(name) not in (None, ""):
            raise ConfigError(f"{name} and {setting} are both set: leave one away")
        found[name] = content(setting, str(path).strip())
    return found


def content(setting: str, path: str) -> str:
    """What the file says, without spaces and line ends around it. Raises `ConfigError`."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no path"
        raise ConfigError(f"{setting}: cannot read {path}: {reason}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{setting}: {path} is larger than {MOST_BYTES} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path} is no UTF-8") from None
    if not text:
        raise ConfigError(f"{setting}: {path} is empty")
    return text
