"""Reads the values of settings: each says what it expected where it cannot."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from fleet.errors import ConfigError
from fleet.model_servers import base_url
from fleet.undecodable import broken_rule


def endpoints(value: str | list[str]) -> tuple[str, ...]:
    """`http://a:8000/v1, http://b:8000` -> URLs, without a `/v1` that follows the host. Raises `ConfigError`."""
    listed = value.split(",") if isinstance(value, str) else value
    urls = []
    for url in (each.strip() for each in listed):
        try:
            if url:
                base_url(url)
        except ValueError as error:
            raise ConfigError(f"VLLM_URL: {error}") from None
        bare = url.rstrip("/").removesuffix("/v1")
        urls.append(bare if bare.count("/") == 2 else url.rstrip("/"))
    return tuple(url for url in urls if url)


def port(value: str | int) -> int:
    """What `FLEET_HEALTH_PORT` says. Raises `ConfigError`."""
    text = str(value).strip()
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    kubernetes = ": a Kubernetes Service named fleet-health sets it; `enableServiceLinks: false` keeps it out"
    raise ConfigError(
        f"FLEET_HEALTH_PORT: expected a port from 1 to 65535, got {text!r}{kubernetes if '://' in text else ''}"
    )


def ray_address(value: str) -> str:
    """What `RAY_ADDRESS` says. Raises `ConfigError` for what can never be joined."""
    if "://" in value:
        expected = "expected HOST:PORT of the head's control service, 6379 say (8265 is the dashboard's)"
        raise ConfigError(f"RAY_ADDRESS: {expected}, got {value!r}")
    return value


def yes_or_no(name: str) -> Callable[[str | bool], bool]:
    """Of a setting that is on or off. What it returns raises `ConfigError`."""

    def read(value: str | bool) -> bool:
        text = str(value).strip().lower()
        if text not in ("true", "false", "1", "0"):
            raise ConfigError(f"{name}: expected true or false, got {value!r}")
        return text in ("true", "1")

    return read


READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "agent_protocol": yes_or_no("FLEET_AGENT_PROTOCOL"),
    "nats_tls_first": yes_or_no("NATS_TLS_FIRST"),
    "ray_address": ray_address,
    "vllm_urls": endpoints,
    "health_port": port,
}
"""By the field of `Settings`: how its text becomes its value."""


def named(error: str, tables: Mapping[str, Any], kind: type[Any]) -> str:
    """Which rule a value breaks that is no `kind`, with the name of the entry that is wrong, where it writes `[...]`
    or says nothing.
    """
    match = re.search(r"`\$\.(\w+)(?:\[\.\.\.\].*)?`$", error)
    table = match[1] if match else ""
    entries = tables.get(table)
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        try:
            msgspec.convert({table: {name: entry}}, kind)
        except msgspec.ValidationError as one:
            text = str(one)
            if "[...]" in text:
                return broken_rule(text.replace("[...]", f".{name}", 1), kind=kind)
            return f"{broken_rule(text, kind=kind)}: {name!r}"
    return broken_rule(error, kind=kind)
