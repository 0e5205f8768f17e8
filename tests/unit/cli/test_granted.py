"""Whose answer counts where several servers say what a user may do."""

import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.jetstream.declaring.permissions import granted_to

LEAF_MAY = {"publish": {"deny": ["$JS.API.>"]}}


class Servers:
    """A connection behind a leaf node: the server at the other end answers first, which a real one does seldom."""

    server_id = "LEAF"

    def __init__(self, *replies: tuple[str, Any]) -> None:
        self.replies = replies
        self.listens = False

    def new_inbox(self) -> str:
        return "_INBOX.x"

    async def subscribe(self, _: str, *, cb: Callable[[Any], Awaitable[None]]) -> "Servers":
        self.hear, self.listens = cb, True
        return self

    async def unsubscribe(self) -> None:
        self.listens = False

    async def publish(self, _: str, __: bytes, *, reply: str) -> None:
        for server, data in self.replies:
            await self.hear(SimpleNamespace(data=json.dumps({"server": {"id": server}, "data": data}).encode()))


async def test_the_server_that_the_user_is_connected_to_says_what_it_may_do() -> None:
    """A hub tells of the connection that the leaf has to it."""
    hub = ("HUB", {"permissions": LEAF_MAY})
    assert await granted_to(Servers(hub, ("LEAF", {}))) == {}
    assert await granted_to(Servers(hub, ("LEAF", {"permissions": {"subscribe": {}}}))) == {"subscribe": {}}
    assert await granted_to(Servers(("LEAF", {}), hub)) == {}


@pytest.mark.parametrize("replies", [(), (("LEAF", {}),), (("HUB", {}),)])
async def test_nobody_listens_afterwards(replies: tuple[tuple[str, Any], ...]) -> None:
    """Also where no server answers, as one that keeps this subject from its users: components ask as they start."""
    servers = Servers(*replies)
    await granted_to(servers, 0.01)
    assert not servers.listens
