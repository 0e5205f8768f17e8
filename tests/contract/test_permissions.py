"""`deploy/nats/permissions.conf` grants what the table of streams asks for, and what else there is: no less, no more.

A stream or a consumer that is new in the table fails here, with the lines that are missing.
"""

import re

import pytest

from fleet.jetstream.rights import USERS, Rights, rights_of
from fleet.jetstream.streams import User
from tests.support.repository.deploy import NATS

TENANTS = re.findall(r"^  (team-\w+) {$", (NATS / "tenants.conf").read_text(), re.MULTILINE)
"""Of the example."""
LISTS = re.compile(r"\b(publish|subscribe|allow|deny)\b(?=[:\s]*[{\[])|\"([^\"]+)\"")


def granted(user: str) -> Rights:
    """What the file says of one user."""
    text = re.sub(r"#.*", "", (NATS / "permissions.conf").read_text())
    (own,) = re.findall(rf"\buser: {user}\b(.*?)(?=\buser: |\Z)", text, re.DOTALL)
    found: dict[tuple[str, str], list[str]] = {}
    verb = kind = ""
    for word, pattern in LISTS.findall(own):
        if word in ("publish", "subscribe"):
            verb = word
        elif word:
            kind = word
        else:
            found.setdefault((verb, kind), []).append(pattern)
    for patterns in found.values():
        assert len(patterns) == len(set(patterns)), f"{user}: a line stands twice"
    return Rights(
        publish=frozenset(found.pop(("publish", "allow"), ())),
        subscribe=frozenset(found.pop(("subscribe", "allow"), ())),
        not_publish=frozenset(found.pop(("publish", "deny"), ())),
        not_subscribe=frozenset(found.pop(("subscribe", "deny"), ())),
    )


def test_the_example_has_tenants() -> None:
    assert TENANTS == ["team-a", "team-b"]


def test_every_user_of_the_file_is_in_the_table() -> None:
    """But for the server's own account."""
    users = re.findall(r"\buser: (\w+)", re.sub(r"#.*", "", (NATS / "permissions.conf").read_text()))
    assert sorted(users) == sorted((*USERS, "sys"))


@pytest.mark.parametrize("kind", ["publish", "subscribe", "not_publish", "not_subscribe"])
@pytest.mark.parametrize("user", USERS)
def test_the_file_grants_what_the_table_asks_for(user: User, kind: str) -> None:
    """Each line that is missing, or too many, is named."""
    wanted, has = getattr(rights_of(user, TENANTS), kind), getattr(granted(user), kind)
    problems = [f'missing for {user}, {kind}: "{line}"' for line in sorted(wanted - has)]
    problems += [f'too many for {user}, {kind}: "{line}"' for line in sorted(has - wanted)]
    assert not problems, "\n".join(problems)
