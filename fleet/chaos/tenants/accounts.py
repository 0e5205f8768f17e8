"""Writes the accounts of a nats-server that a fleet shares with tenants.

Exports and imports are those of `deploy/nats/tenants.conf`, which is not packaged. A test holds one against the other.

Nobody is kept out. Whoever connects without a user is in the fleet's account, so that the fleet needs no password.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from fleet import subjects
from fleet.tenants.names import EVERY, TEXT, subject_of

TENANTS: Final = ("team-a", "team-b")
"""Of a fleet of one's own, beside the default one."""
FLEET_ACCOUNT, FLEET_USER = "FLEET", "fleet"
FLEET_NAME: Final = "fleet"

_STREAM, _LONG, _SHORT = 'response_type: "Stream"', 'threshold: "2h"', 'threshold: "10m"'
SERVICES: Final = {
    subjects.REQUESTED: (),
    subjects.ASK: (_LONG,),
    subjects.RESULT: (_SHORT,),
    subjects.CANCEL: (_SHORT,),
    subjects.FOLLOW: (_STREAM, _LONG),
    TEXT: (_STREAM,),
    subjects.PROMPT: (_STREAM, _LONG),
}
"""Of each tenant its own -> options of the export."""
SERVICES_OF_ALL: Final = {
    subjects.PROMPT_STATUS: (),
    "$SRV.PING.agents": (_STREAM,),
    "$SRV.PING.agents.*": (),
    "$SRV.INFO.agents": (_STREAM,),
    "$SRV.INFO.agents.*": (),
}
EVENTS: Final = (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL, subjects.AGENT_PROGRESS)
EVENTS_OF_ALL: Final = (subjects.HEARTBEAT,)


def accounts(max_payload: str, tenants: Sequence[str] = TENANTS) -> str:
    """A part of the server's configuration. A tenant's user and password are its name."""
    own = "\n".join(
        f"""\
  {tenant} {{
    limits: {{ max_payload: {max_payload} }}
    users: [{{ user: "{tenant}", password: "{tenant}" }}]
    imports: [
{_lines(imports(tenant))}
    ]
  }}"""
        for tenant in tenants
    )
    return f"""\
accounts {{
  {FLEET_ACCOUNT} {{
    jetstream: enabled
    users: [{{ user: "{FLEET_USER}", password: "{FLEET_USER}" }}]
    exports: [
{_lines(exports())}
    ]
  }}
{own}
}}
no_auth_user: "{FLEET_USER}"
"""


def exports() -> Iterator[str]:
    """What the fleet's account offers, entry by entry."""
    position = "account_token_position: 2"
    for plain, options in SERVICES.items():
        subject = subject_of(EVERY, subjects.of_fleet(plain, "*"))
        yield _entry(f'service: "{subject}"', *options, position)
    for plain, options in SERVICES_OF_ALL.items():
        yield _entry(f'service: "{subjects.of_fleet(plain, "*")}"', *options)
    for plain in EVENTS:
        yield _entry(f'stream: "{subject_of(EVERY, plain)}"', position)
    for plain in EVENTS_OF_ALL:
        yield _entry(f'stream: "{subjects.of_fleet(plain, "*")}"')


def imports(tenant: str) -> Iterator[str]:
    """What a tenant's account takes, under the names that every client knows."""
    kinds = (("service", SERVICES, SERVICES_OF_ALL), ("stream", EVENTS, EVENTS_OF_ALL))
    for kind, own, shared in kinds:
        for plain in (subjects.of_fleet(name, FLEET_NAME) for name in own):
            yield _entry(f"{kind}: {_from_fleet(subject_of(tenant, plain))}", f'to: "{plain}"')
        for plain in (subjects.of_fleet(name, FLEET_NAME) for name in shared):
            yield _entry(f"{kind}: {_from_fleet(plain)}")


def _from_fleet(subject: str) -> str:
    return _entry(f"account: {FLEET_ACCOUNT}", f'subject: "{subject}"')


def _entry(*parts: str) -> str:
    return f"{{ {', '.join(parts)} }}"


def _lines(entries: Iterator[str]) -> str:
    return "\n".join(f"      {entry}" for entry in entries)
