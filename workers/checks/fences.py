"""Finds the fenced code blocks of a proposal, as CommonMark defines them, and tells sketches from code."""

import re
from typing import NamedTuple

MAX_TEXT_BYTES = 2 * 1024 * 1024
MAX_BLOCK_BYTES = 256 * 1024

_ALIASES = {"py": "python", "python3": "python", "yml": "yaml"}
_TEMPLATE = re.compile(r"\{\{|\{%")
_ELISION = re.compile(r"(?<![\w\"'.])(?:\.\.\.|…)(?![\w.])")


class Block(NamedTuple):
    """`number` counts the proposal's fenced blocks from 1; `first_line` is where the text begins in the proposal."""

    number: int
    language: str
    text: str
    first_line: int

    def where(self, line: int) -> str:
        """`line` counts from 1 within the block."""
        return f"block {self.number}, line {line} (line {self.first_line + line - 1} of the proposal)"

    @property
    def too_large(self) -> bool:
        return len(self.text) * 4 > MAX_BLOCK_BYTES and len(self.text.encode()) > MAX_BLOCK_BYTES

    @property
    def templated(self) -> bool:
        """Helm or Jinja: no YAML until somebody fills it in."""
        return _TEMPLATE.search(self.text) is not None

    @property
    def elided(self) -> bool:
        """Something is left out and marked by `...`: the block shows a part, and is not meant to be whole."""
        return elided(self.text)


def elided(text: str) -> bool:
    return _ELISION.search(text) is not None


def fenced(text: str) -> bool:
    """Quick: whether there may be a block at all."""
    return "```" in text or "~~~" in text


def blocks(text: str) -> list[Block]:
    """All fenced blocks that are not blank, in order. Line breaks are `\\n`, lone surrogates are `?`."""
    from markdown_it import MarkdownIt

    # Inline markup, link references and underlined headings change nothing about fences, and cost time.
    parser = MarkdownIt("commonmark").disable(["inline", "text_join", "reference", "lheading"])
    fences = [
        token for token in parser.parse(text.encode(errors="replace").decode()) if token.type == "fence" and token.map
    ]
    return [
        Block(number, _language(fence.info), fence.content, fence.map[0] + 2)
        for number, fence in enumerate(fences, start=1)
        if fence.map and fence.content.strip()
    ]


def _language(info: str) -> str:
    word = next(iter(info.split()), "").lower()
    return _ALIASES.get(word, word)
