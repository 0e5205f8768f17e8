"""Finds free ports of this machine, and gives health its ports."""

import random
import socket
from collections import deque

from fleet.config import Settings
from fleet.errors import ConfigError

LAST_PORT = 65535
QUIET = range(20_000, 28_000)
"""Below those that Linux and macOS give to outgoing connections, above those of Ray's workers: a port of these stays
free until whoever asked for it listens, however many connections begin meanwhile."""
_PROMISED: deque[int] = deque(maxlen=1_000)
"""Given away by this process, lately. Whoever got one may not listen yet, or only later again."""


def health_ports(settings: Settings) -> dict[str, int]:
    """The dispatcher has the port that is set, the collector the next one. Raises `ConfigError`."""
    port = settings.health_port
    if port is None:
        return {}
    if port == LAST_PORT:
        raise ConfigError(f"FLEET_HEALTH_PORT: the collector has the next port, and there is none after {port}")
    ports = {"dispatcher": port, "collector": port + 1}
    _PROMISED.extend(ports.values())
    return ports


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
    """Free just now, and not given to anybody else by this process lately."""
    while (port := random.SystemRandom().choice(QUIET)) in _PROMISED or not is_free(port):
        pass
    _PROMISED.append(port)
    return port


def preferred(port: int) -> int:
    """`port` where that is free just now, else another one."""
    return port if is_free(port) else free_port()
