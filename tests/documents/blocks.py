"""The documents, and what stands in them: fenced blocks, commands, sentences."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for top in ("fleet", "workers")
        for path in (ROOT / top).rglob("README.md")
        if "node_modules" not in path.parts  # of the page's libraries
    ),
]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it stands."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command line, without settings before it and without its comment."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {' '.join(self.words)}"

    @property
    def program(self) -> str:
        """`fleet`, wherever it is said to lie."""
        return Path(self.words[0]).name


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(*languages: str) -> list[Block]:
    return [
        Block(name_of(path), text.count("\n", 0, match.start()) + 1, match["language"], match["text"])
        for path in DOCUMENTS
        for text in [path.read_text()]
        for match in FENCE.finditer(text)
        if match["language"] in languages
    ]


def commands() -> list[Command]:
    """Every command of the shell blocks, in the order of the documents."""
    return [command for block in blocks("sh", "console") for command in _lines(block)]


def mentioned(program: str) -> list[Command]:
    """Commands in the midst of a sentence."""
    found = []
    for path in DOCUMENTS:
        for span in SPAN.findall(prose(path)):
            words = _words(span)
            if words and Path(words[0]).name == program:
                found.append(Command(name_of(path), words))
    return list(dict.fromkeys(found))


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", path.read_text())


def _lines(block: Block) -> Iterator[Command]:
    for line in block.text.splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        if words := _words(line):
            yield Command(str(block), words)


def _words(line: str) -> tuple[str, ...]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return ()
    while words and ASSIGNMENT.fullmatch(words[0]):
        del words[0]
    return tuple(words)
