"""How long a model may be silent: before its first token, and between two."""

import asyncio

import pytest
from aiohttp import web

from tests.support.workers.calls import END, RecordingWatcher, ask, client, complete, said, server, stream
from workers.llm.client import GaveUp


async def test_signs_of_life_are_no_text() -> None:
    """A proxy that sends comments for as long as nobody writes hides no silence."""
    over = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        response = await stream(request, said("half"))
        while not over.is_set():
            await response.write(b": still here\n\ndata:\n\n")
            await asyncio.sleep(0.02)
        return response

    async with server(chat) as url, client(url, stall_timeout_s=0.3, max_attempts=1) as made:
        with pytest.raises(GaveUp, match="1 pieces of text") as raised:
            await complete(made, ask())
        over.set()
    assert raised.value.error_type == "StreamStalled"


async def test_each_wait_for_a_first_token_is_longer_than_the_one_before() -> None:
    """A server that loads its model, or has a queue, is not asked anew for ever."""
    hasty = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal hasty
        try:
            await asyncio.sleep(0.7)
        except asyncio.CancelledError:
            hasty += 1
            raise
        return await stream(request, said("fine"), END)

    async with server(chat) as url, client(url, first_token_timeout_s=0.3, max_attempts=4) as made:
        heard = RecordingWatcher()
        answer = await complete(made, ask(), heard)
    assert answer.content == "fine"
    assert heard.errors == ["Timeout"] * (answer.attempt - 1)
    assert 1 <= len(heard.errors) <= 3


async def test_an_answer_that_flows_may_take_longer_than_any_limit_on_silence() -> None:
    """Only silence is limited."""

    async def chat(request: web.Request) -> web.StreamResponse:
        response = await stream(request, said("0"))
        for number in range(1, 12):
            await asyncio.sleep(0.1)
            await response.write(said(str(number % 10)).encode())
        await response.write(END.encode())
        return response

    async with server(chat) as url, client(url, stall_timeout_s=0.8, max_attempts=1) as made:
        answer = await complete(made, ask())
    assert answer.content == "012345678901"
