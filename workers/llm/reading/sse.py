"""Decodes server-sent events: bytes to the data of events. Knows no sockets, and nothing of what the data means.

What is no event at all (a body of JSON, a page, an error that was written between events) comes out as data as well,
once it is complete: what it says must not be lost.
"""

import json
from codecs import BOM_UTF8

from workers.llm.failures import malformed

MAX_LINE_BYTES = 16 * 2**20
"""A line longer than this is no event of a chat completion."""
BYTES_PER_LINE = 32
"""What each line that is held takes besides."""
DONE = "[DONE]"
_FIELDS = (b"event:", b"id:", b"retry:", b":", b"event", b"id", b"retry", b"data")


class SseDecoder:
    """Chunks may be split anywhere, in a line end or in a character too."""

    def __init__(self) -> None:
        self._begins = True
        self._rest = bytearray()
        self._after_cr = False
        self._data: list[bytes] = []
        self._unframed: list[bytes] = []
        self._held = 0
        """Bytes of both."""
        self._is_error = False

    def feed(self, chunk: bytes) -> list[str]:
        """The data of each event that is complete now. Raises `AttemptError` (MalformedResponse)."""
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
        if self._begins:
            self._begins = False
            self._rest = self._rest.removeprefix(BOM_UTF8)
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        events: list[str] = []
        for line in lines:
            self._line(line, events)
        return events

    def finish(self) -> list[str]:
        """What a server that forgets the last blank line had said."""
        last, self._rest = bytes(self._rest), bytearray()
        if self._begins:
            last = last.removeprefix(BOM_UTF8)
        events: list[str] = []
        if last:
            self._line(last, events)
        self._line(b"", events)
        self._end_unframed(events)
        return events

    def _line(self, line: bytes, events: list[str]) -> None:
        if line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            while data.startswith(b"data:"):  # a relay that frames what is framed
                data = data[5:].removeprefix(b" ")
            if self._data and _begins_anew(self._data[-1], data):
                self._end(events)
            self._data.append(data)
            self._hold(data)
            if data.rstrip() == DONE.encode():
                self._end(events)
        elif not line:
            self._end(events)
        elif line.startswith(_FIELDS[:4]) or line in _FIELDS:
            # Comments (":") keep a connection alive; id and retry mean nothing here.
            if line.startswith(b"event:"):
                self._is_error = line[6:].strip().lower() == b"error"
        else:
            self._unframed.append(line)
            self._hold(line)

    def _hold(self, line: bytes) -> None:
        self._held += len(line) + BYTES_PER_LINE
        if self._held > MAX_LINE_BYTES:
            raise malformed(f"more than {MAX_LINE_BYTES} bytes that are no event")

    def _end(self, events: list[str]) -> None:
        if not self._data:
            return
        self._end_unframed(events)  # it came before: what it says must not be taken for something after the end
        data = b"\n".join(self._data).decode("utf-8", "replace")
        self._data, self._held = [], 0
        if self._is_error and not data.lstrip().startswith('{"error"'):
            data = f'{{"error": {data if data.lstrip().startswith("{") else _quoted(data)}}}'
        self._is_error = False
        events.append(data)

    def _end_unframed(self, events: list[str]) -> None:
        if self._unframed:
            events.append(b"\n".join(self._unframed).decode("utf-8", "replace"))
            self._unframed = []
            self._held = sum(len(line) + BYTES_PER_LINE for line in self._data)


def _begins_anew(last: bytes, data: bytes) -> bool:
    """Whether two lines of data are two events, parted by one line end only: no JSON has `}` before `{`."""
    return data.rstrip() == DONE.encode() or (last.rstrip().endswith(b"}") and data.startswith(b"{"))


def _quoted(text: str) -> str:
    return json.dumps(text)
