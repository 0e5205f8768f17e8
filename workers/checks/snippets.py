"""Decides which of ruff's findings are defects of a snippet. What is in doubt is none.

Snippets are fragments, whose context is often left to the reader: good documentation is full of `my_engine.start()` and
`db.query(Item)`. An undefined name is a defect only if

- the block defines functions (a few lines of usage may well take something for granted),
- nothing is left out of the block, which `...` would show,
- the proposal does not speak of the name elsewhere: in another Python block that does not miss it too, in an untagged
  block, in `code` within the prose,
- a body reads it plainly (`return total`; not `cache.get(key)`, `send(mail)`, `User`, `@app.get`), or it is a module of
  the standard library (`time.time()`) in a block that has other imports.
"""

import re

from workers.checks.fences import Block, elided
from workers.checks.ruff import SYNTAX, UNDEFINED, Problem

_MODULES = (
    *("asyncio", "collections", "contextlib", "dataclasses", "datetime", "functools", "hashlib", "itertools", "json"),
    *("logging", "math", "os", "pathlib", "random", "re", "subprocess", "sys", "threading", "time", "typing", "uuid"),
)
"""Those whose names nobody gives to a variable."""

# Each is tried once per line at most: blocks are large, and not always written in good faith.
_SESSION = re.compile(r"^[ \t]*(?:>>>|In \[\d*\]:)", re.MULTILINE)
_CONTINUES = re.compile(r"\s*(?:elif|else|except|finally|case)\b")
_LEFT_OUT = re.compile(r"^[ \t]*(?:\.\.\.|…)[ \t]*$|^[^#\n]*#.*(?:\.\.\.|…)", re.MULTILINE)
_IMPORTS = re.compile(r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]", re.MULTILINE)
_FUNCTIONS = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]", re.MULTILINE)
_WORDS = re.compile(r"\w+")
_PROSE_CODE = re.compile(r"`([^`\n]+)`")


def stands_alone(block: Block) -> bool:
    """Not a session with a prompt, nor the continuation of a statement in an earlier block."""
    return not (_SESSION.search(block.text) or _CONTINUES.match(block.text))


class Snippet:
    """A block and what ruff said about it. `missing`: the undefined names, each with its uses."""

    def __init__(self, block: Block, code: str, problems: list[Problem]) -> None:
        self.block = block
        self.problems = problems
        self.missing: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem.code == UNDEFINED:
                self.missing.setdefault(problem.name, []).append(problem)
        self._lines = code.split("\n")
        self._whole = not _LEFT_OUT.search(code)
        self._imports = _IMPORTS.search(code) is not None
        self._functions = _FUNCTIONS.search(code) is not None

    def syntax_error(self) -> Problem | None:
        """The first, since the others tend to follow from it. None where `...` or a comment stands for the code."""
        errors = [problem for problem in self.problems if problem.code == SYNTAX]
        if not errors or any(elided(self._lines[line - 1]) for line in {error.line for error in errors}):
            return None
        first = errors[0]
        if first.message.startswith("Expected class, function definition"):
            return None  # a decorator, shown alone
        before = "\n".join(self._lines[: first.line - 1]).rstrip().rpartition("\n")[2].lstrip()
        if first.message.startswith("Expected an indented block") and before.startswith("#"):
            return None
        return first

    def defects(self, known: set[str]) -> list[Problem]:
        """All but the syntax errors; one for each undefined name that is not `known`."""
        missed = {name for name in self.missing if name not in known and self._has_to_define(name)}
        problems: list[Problem] = []
        for problem in self.problems:
            if problem.code == UNDEFINED:
                if problem.name in missed:
                    missed.remove(problem.name)
                    problems.append(problem)
            elif problem.code != SYNTAX:
                problems.append(problem)
        return problems

    def _has_to_define(self, name: str) -> bool:
        if not (self._whole and self._functions):
            return False
        return (self._imports and name in _MODULES) or all(self._is_plain(use) for use in self.missing[name])

    def _is_plain(self, use: Problem) -> bool:
        """Within a body; not a class, a module, a function or an annotation, as far as one can see."""
        line = self._lines[use.line - 1]
        before, after = line[: use.column - 1].rstrip(), line[use.ends_at - 1 :]
        return line[:1] in " \t" and not (
            use.name[:1].isupper() or after.startswith((".", "(", "[")) or before.endswith(("@", ":", "->", "|", "["))
        )


def spoken_of(snippet: Snippet, snippets: list[Snippet], blocks: list[Block], text: str) -> set[str]:
    """Names that stand elsewhere in the proposal and are not undefined there."""
    known = {word for code in _PROSE_CODE.findall(text) for word in _WORDS.findall(code)}
    for block in blocks:
        if block.language == "":
            known |= set(_WORDS.findall(block.text))
    for other in snippets:
        if other is not snippet:
            known |= set(_WORDS.findall(other.block.text)) - other.missing.keys()
    return known
