"""`deploy/nodes.md` names what crosses to a second region: what clients and workers need by the table of streams."""

import re

import pytest

from fleet.jetstream.rights import rights_of
from fleet.jetstream.streams import User
from tests.support.repository.deploy import DEPLOY

SYSTEM = ("$JS.", "$SYS.")
ROW = re.compile(r"^\| (client|worker) \| (to|from) the fleet \| (.*) \|$", re.MULTILINE)


def named(user: User, way: str) -> set[str]:
    """The patterns in one row of the document."""
    rows = {(who, where): re.findall(r"`([^`]+)`", cell) for who, where, cell in ROW.findall(_document())}
    return set(rows[user, way])


def _document() -> str:
    return (DEPLOY / "nodes.md").read_text()


@pytest.mark.parametrize("user", ["client", "worker"])
def test_the_document_names_what_crosses(user: User) -> None:
    """A client in another region needs no JetStream; a worker does."""
    rights = rights_of(user)
    asked = {each for each in rights.publish if user == "worker" or not each.startswith((*SYSTEM, "$SRV."))}
    assert named(user, "to") == asked - {"$SYS.REQ.USER.INFO"}
    assert named(user, "from") == set(rights.subscribe)
