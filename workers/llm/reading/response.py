"""Reads one response until its text has ended. Whatever a server sends, other calls go on meanwhile."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf

import aiohttp

from workers.llm.failures import of_client_error
from workers.llm.reading.answer import StreamedAnswer
from workers.llm.reading.read_pacing import Stream
from workers.llm.reading.silence import Silence
from workers.llm.reading.sse import SseDecoder

AFTER_ALL_S = 0.3
AFTER_END_S = 0.9
"""How long a stream whose text has ended may go on, whatever it sends: with the counts of tokens, and without them."""
AT_ONCE_BYTES = 64 * 1024
"""Of what has come, before others have their turn: it may be thousands of events."""


async def read_answer(
    response: aiohttp.ClientResponse,
    hide: Callable[[str], str],
    streamed: StreamedAnswer,
    silence: Silence,
    stream: Stream,
    wrote: Callable[[str], None],
) -> None:
    """Until the text has ended, and a little longer for the counts of tokens. Raises `AttemptError`.

    `hide` takes out what is not to be repeated; `wrote` is told of text as it comes.
    """
    loop, decoder = asyncio.get_running_loop(), SseDecoder()
    lost: aiohttp.ClientError | None = None
    ends_at = inf
    while lost is None:
        try:
            if streamed.finished:
                ends_at = min(ends_at, loop.time() + (AFTER_END_S if streamed.counts is None else AFTER_ALL_S))
                chunk = await _read_until(response, ends_at)
            else:
                chunk = await response.content.readany()
        except aiohttp.ClientError as error:
            chunk, lost = b"", error
        if not chunk:
            break
        for start in range(0, len(chunk), AT_ONCE_BYTES):
            if start:
                await asyncio.sleep(0)
            pieces = streamed.pieces
            come = decoder.feed(chunk[start : start + AT_ONCE_BYTES])
            text = "".join([streamed.take(hide(event)) for event in come if not streamed.done])
            if streamed.pieces != pieces:
                silence.broken()
            if text:
                wrote(text)
            if streamed.done:
                return
        if not streamed.finished:
            await stream.rest(response, streamed.pieces)
    text = "".join([streamed.take(hide(event)) for event in decoder.finish()])
    if text:
        wrote(text)
    if lost is not None and not streamed.finished:
        raise streamed.cut_off() if streamed.pieces else of_client_error(lost, 0.0)


async def _read_until(response: aiohttp.ClientResponse, ends_at: float) -> bytes:
    """What comes before that time of the loop; nothing is the end."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(ends_at):
            return await response.content.readany()
    return b""
