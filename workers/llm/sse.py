"""Server-sent events of a streamed chat completion: bytes to events, events to an answer. Knows no sockets."""

from typing import Any

import msgspec
from msgspec import Struct

from fleet.errors import AgentCallError
from fleet.messages import Usage
from workers.llm.failures import of_error_object, shorten
from workers.llm.reasoning import Thinking

MAX_LINE_BYTES = 16 * 2**20
"""A line longer than this is no event of a chat completion."""
DONE = "[DONE]"


class SseDecoder:
    """Chunks may be split anywhere, in a line end or in a character too."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._after_cr = False
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of each event that is complete now. Raises `AgentCallError` (MalformedResponse)."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._rest += chunk
        if b"\n" not in chunk:
            if len(self._rest) > MAX_LINE_BYTES:
                raise malformed(f"a line of more than {MAX_LINE_BYTES} bytes")
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [event for line in lines if (event := self._line(line)) is not None]

    def finish(self) -> list[str]:
        """What a server that forgets the last blank line had said."""
        last, self._rest = bytes(self._rest), bytearray()
        if last:
            self._line(last)
        event = self._line(b"")
        return [] if event is None else [event]

    def _line(self, line: bytes) -> str | None:
        if not line:
            data, self._data = self._data, []
            try:
                return b"\n".join(data).decode() if data else None
            except UnicodeDecodeError as error:
                raise malformed(f"not UTF-8: {error.reason}") from None
        # Comments (":") keep a connection alive; event, id and retry mean nothing here.
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        return None


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None


_chunks = msgspec.json.Decoder(_Chunk)


class StreamedAnswer:
    """What has been said so far. `deltas` counts pieces of text: about tokens, until `usage` tells."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.has_usage = False
        self.finish_reason: str | None = None
        self.done = False
        self.deltas = 0
        self._content = Thinking()
        self._reasoning: list[str] = []

    @property
    def content(self) -> str:
        return self._split()[1]

    @property
    def reasoning(self) -> str:
        """What a reasoning model thought, however its server sends it; never a part of its answer."""
        return "".join([*self._reasoning, self._split()[0]])

    @property
    def tokens(self) -> int:
        """Completion tokens as reported, else the count of deltas."""
        return self.usage.completion_tokens if self.has_usage else self.deltas

    @property
    def complete(self) -> bool:
        """Whether the server said that this was all."""
        return self.done or self.finish_reason is not None

    def take(self, data: str) -> str:
        """Applies one event; returns the text it adds. Raises `AgentCallError` for an error or what is no chunk."""
        if data.strip() == DONE:
            self.done = True
            return ""
        try:
            chunk = _chunks.decode(data)
        except msgspec.MsgspecError as error:
            raise malformed(f"no chunk of a completion ({error}): {shorten(data)}") from None
        if chunk.error is not None or chunk.object == "error":
            raise of_error_object(chunk.error if chunk.error is not None else msgspec.json.decode(data))
        if chunk.usage is not None:
            self._count(chunk.usage)
        added = ""
        for choice in chunk.choices or ():
            if choice.index == 0:
                self.finish_reason = choice.finish_reason or self.finish_reason
                added += self._hear(choice.delta)
        return added

    def _split(self) -> tuple[str, str]:
        # A server that sends thoughts apart leaves none in the text.
        return self._content.split(untagged=not self._reasoning)

    def _hear(self, delta: _Delta | None) -> str:
        if delta is None:
            return ""
        if thought := delta.reasoning_content or delta.reasoning:
            self._reasoning.append(thought)
            self.deltas += 1
        if not delta.content:
            return ""
        self.deltas += 1
        return self._content.feed(delta.content)

    def _count(self, usage: _Usage) -> None:
        self.has_usage = True
        details = usage.prompt_tokens_details
        self.usage = Usage(
            prompt_tokens=usage.prompt_tokens or 0,
            completion_tokens=usage.completion_tokens or 0,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
        )


def malformed(what: str) -> AgentCallError:
    """The server's answer cannot be read."""
    return AgentCallError("MalformedResponse", what, retryable=True)
