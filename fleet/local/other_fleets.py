"""Checks whether another fleet runs on a NATS: a second one of its name would take a part of its calls.

Context: streams have one name each, so an account has one fleet. Its dispatchers and collectors have the same
FLEET_NAME, and there may be many of them, started one by one. A second `fleet up` is another matter: it brings workers
and perhaps a model of its own, on somebody's laptop.
Choice: `fleet up` and `fleet demo` refuse where a fleet answers, unless FLEET_NAME was chosen. `fleet dispatcher` and
`fleet collector` are how a fleet gets another component, and never ask.
Price: whoever wants two `fleet up` to share work says so. A fleet that is stopped at that moment is not noticed.
"""

from nats.errors import Error, NoRespondersError
from nats.js.errors import APIError

from fleet import subjects
from fleet.errors import ConfigError
from fleet.jetstream.declaring.ownership import MARK
from fleet.jetstream.lasting import Connection

WITHIN_S = 2.0


async def refuse(nc: Connection, url: str) -> None:
    """Raises `ConfigError` where a fleet answers."""
    try:
        await nc.request(f"$SRV.PING.{subjects.SERVICE}", timeout=WITHIN_S)
    except (NoRespondersError, Error, TimeoutError):
        return
    name = await _name(nc)
    raise ConfigError(
        f"a fleet{f' named {name!r}' if name else ''} is at work at {url}, and would share its calls with this one. "
        f"Set FLEET_NAME={name or '…'} if it is to, or give this fleet a NATS account of its own"
    )


async def _name(nc: Connection) -> str | None:
    try:
        config = (await nc.jetstream(timeout=WITHIN_S).stream_info(subjects.DELIBERATION_REQUESTS)).config
    except (APIError, Error, TimeoutError):
        return None
    return (config.metadata or {}).get(MARK)
