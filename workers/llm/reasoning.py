"""A reasoning model's thoughts, where its server leaves them in the text: `<think>…</think>`, then the answer.

Some chat templates open the tag themselves: then a text begins within the thoughts, and only a line that is `</think>`
shows it.
"""

import re

OPEN, CLOSE = "<think>", "</think>"
_CLOSING_LINE = re.compile(rf"^[ \t]*{CLOSE}[ \t]*$", re.MULTILINE)


class Thinking:
    """Takes a text piece by piece. What follows an opening tag that begins it is told apart as it comes; thoughts
    without one only once the text is whole, in `split`.
    """

    def __init__(self) -> None:
        self._thoughts: list[str] = []
        self._answer: list[str] = []
        self._held = ""
        self._opened: bool | None = None
        self._closed = False

    def feed(self, piece: str) -> str:
        """The part of the answer that is known to be one now."""
        if self._opened is None:
            return self._begin(piece)
        if not self._opened or self._closed:
            return self._say(piece)
        return self._think(piece)

    def split(self, *, untagged: bool) -> tuple[str, str]:
        """Thoughts and answer so far. `untagged`: thoughts may have begun without their tag."""
        if self._opened:
            thoughts = "".join(self._thoughts) + ("" if self._closed else self._held)
            return thoughts.strip(), "".join(self._answer)
        text = "".join(self._answer) + self._held
        closed = _CLOSING_LINE.search(text) if untagged else None
        # An answer that speaks of the tags does so within a line, or names both.
        if closed is None or OPEN in text[: closed.start()]:
            return "", text
        return text[: closed.start()].strip(), text[closed.end() :].lstrip()

    def _begin(self, piece: str) -> str:
        self._held += piece
        start = self._held.lstrip()
        if start != OPEN and OPEN.startswith(start):
            return ""
        self._opened = start.startswith(OPEN)
        held, self._held = self._held, ""
        return self._think(start.removeprefix(OPEN)) if self._opened else self._say(held)

    def _think(self, piece: str) -> str:
        self._held += piece
        thought, closed, answer = self._held.partition(CLOSE)
        if closed:
            self._held, self._closed = "", True
            self._thoughts.append(thought)
            return self._say(answer)
        # The end of what was held may be the beginning of the tag.
        kept = len(self._held) - len(CLOSE) + 1
        if kept > 0:
            self._thoughts.append(self._held[:kept])
            self._held = self._held[kept:]
        return ""

    def _say(self, piece: str) -> str:
        if self._opened and not self._answer:
            piece = piece.lstrip()
        if piece:
            self._answer.append(piece)
        return piece
