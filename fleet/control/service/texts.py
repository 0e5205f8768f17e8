"""Answers `deliberation.text`: sends a tenant, the default one among them, what its results refer to, piece by piece.

A tenant's account has no JetStream, so that its clients cannot read the object stores as others do. They get an object
whose name says that it is of a task of theirs, and nothing else: what is another one's does not exist for them.
"""

import re
from collections.abc import AsyncGenerator, Callable

from nats.micro.request import Request

from fleet.control.component import Component
from fleet.control.service.calls import fault
from fleet.jetstream.payloads import MissingText
from fleet.messages import UNDECODABLE, ContentRef, decode
from fleet.tenants.names import DEFAULT_TENANT, tenant_of
from fleet.undecodable import why_undecodable

PIECE = 256 * 1024
_ID = r"[A-Za-z0-9_-]{1,64}"


def texts_of(component: Component) -> Callable[[Request], AsyncGenerator[bytes]]:
    """What the endpoint replies."""

    async def replies(request: Request) -> AsyncGenerator[bytes]:
        try:
            ref = decode(request.data, ContentRef)
        except UNDECODABLE as error:
            raise fault(400, f"bad request: {why_undecodable(error, request.data)}") from None
        try:
            if not is_named_for(tenant_of(request.subject), ref.name):
                raise MissingText(f"{ref.bucket}/{ref.name} is gone")
            body = await component.texts.get(ref)
        except MissingText as error:
            raise fault(404, str(error)) from None
        size = min(PIECE, component.texts.limit)
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return replies


def is_named_for(tenant: str, name: str) -> bool:
    """Whether an object of this name belongs to a task of the tenant. A task of the default tenant may be called as a
    tenant is: `answers/team-a.0.propose…` is its answer.
    """
    key = _ID if tenant == DEFAULT_TENANT else rf"{re.escape(tenant)}\.{_ID}"
    own = rf"(tasks/{key}/|answers/{key}/|answers/{key}\.\d{{1,3}}\.[a-z]+\.agent-)"
    return re.match(own, name, re.ASCII) is not None
