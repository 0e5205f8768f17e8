"""Finds free ports of this machine, and gives health its ports."""

import socket

from fleet.config import Settings
from fleet.errors import ConfigError

LAST_PORT = 65535


def health_ports(settings: Settings) -> dict[str, int]:
    """The dispatcher has the port that is set, the collector the next one. Raises `ConfigError`."""
    port = settings.health_port
    if port is None:
        return {}
    if port == LAST_PORT:
        raise ConfigError(f"FLEET_HEALTH_PORT: the collector has the next port, and there is none after {port}")
    return {"dispatcher": port, "collector": port + 1}


def is_free(port: int) -> bool:
    """Whether a server on this machine may take it."""
    with socket.socket() as other:
        if other.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
        try:
            own.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Free just now."""
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port


def preferred(port: int) -> int:
    """`port` where that is free just now, else another one."""
    return port if is_free(port) else free_port()
