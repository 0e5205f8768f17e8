"""Builds replies of the simulated server that are no chat: JSON, a refusal, a closed connection, silence."""

import asyncio
from typing import NoReturn

from aiohttp import web

from workers.simulator import wire


async def silence() -> NoReturn:
    """Wait until the client leaves, which cancels the handler."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")


def hang_up(request: web.Request) -> web.Response:
    """Close the connection once what was written is out; the response returned reaches nobody."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def json_reply(value: object, status: int = 200) -> web.Response:
    return web.Response(body=wire.encode(value), status=status, content_type="application/json")


def refusal(error: wire.ApiError) -> web.Response:
    response = json_reply(error.body, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = error.retry_after
    return response
