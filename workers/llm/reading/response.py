"""Reads one response until its text has ended. Whatever a server sends, other calls go on meanwhile."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from workers.llm.failures import of_client_error
from workers.llm.reading.answer import StreamedAnswer
from workers.llm.reading.read_pacing import Stream
from workers.llm.reading.silence import Silence
from workers.llm.reading.sse import SseDecoder

AFTER_ALL_S = 0.3
AFTER_END_S = 0.9
"""How long a stream whose text has ended may go on: with the counts of tokens, and without them."""
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
    decoder = SseDecoder()
    lost: aiohttp.ClientError | None = None
    while lost is None:
        try:
            chunk = await (_read_after_end(response, streamed) if streamed.finished else response.content.readany())
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


async def _read_after_end(response: aiohttp.ClientResponse, streamed: StreamedAnswer) -> bytes:
    """What comes within the grace; nothing is the end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(AFTER_ALL_S if streamed.counts is not None else AFTER_END_S):
            return await response.content.readany()
    return b""
