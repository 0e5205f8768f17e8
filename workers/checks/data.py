"""Parses JSON, YAML and TOML blocks, and reports what does not parse.

A block that does not parse is a sketch, without findings, if `...` shows that something is left out, or if it is a
template. The inside of a JSON object, without its braces, is taken as JSON.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from fleet.undecodable import in_words
from workers.checks import yaml_nodes
from workers.checks.fences import MAX_BLOCK_BYTES, Block
from workers.checks.findings import Findings

MAX_DOTS_IN_LINE = 300
"""Of TOML: tomllib takes quadratic time for the parts of a dotted key."""


class Document(NamedTuple):
    """A JSON value, or (`node`) a YAML document that is not a value yet."""

    block: Block
    value: Any = None
    node: yaml.Node | None = None


class CheckedData(NamedTuple):
    """The findings by check, and what was parsed."""

    findings: dict[str, Findings]
    documents: list[Document]


def check(blocks: list[Block]) -> CheckedData:
    """Every block of a language of ours."""
    findings = {"json": Findings(), "yaml": Findings(), "toml": Findings()}
    parsers = {"json": _json, "yaml": _yaml, "toml": _toml}
    documents: list[Document] = []
    for block in blocks:
        if block.language not in parsers or (block.language == "yaml" and block.templated):
            continue
        of_block = findings[block.language]
        if block.too_large:
            of_block.unchecked(f"the block is larger than {MAX_BLOCK_BYTES // 1024} KiB", block)
            continue
        try:
            documents += parsers[block.language](block)
            of_block.applied = True
        except _NotParsed as error:
            if not (block.templated or block.elided):
                of_block.applied = True
                of_block.wrong(str(error), block, error.line)
        except _NotChecked as error:
            of_block.unchecked(str(error), block)
    return CheckedData(findings, documents)


class _NotParsed(Exception):
    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


class _NotChecked(Exception):
    pass


def _json(block: Block) -> Iterator[Document]:
    try:
        value = _loads(block.text)
    except json.JSONDecodeError as error:
        try:
            _loads("{" + block.text.rstrip().rstrip(",") + "}")
        except (json.JSONDecodeError, RecursionError):
            raise _NotParsed(f"{in_words(error)} (column {error.colno})", error.lineno) from None
        return  # members of an object, shown without its braces
    except RecursionError:
        raise _NotChecked("nested too deeply") from None
    yield Document(block, value)


def _loads(text: str) -> Any:
    # Python refuses to convert more than 4,300 digits, which JSON does not mind.
    return json.loads(
        text, parse_constant=_no_constant, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits)
    )


def _no_constant(name: str) -> Any:
    raise _NotParsed(f"{name} is not JSON", 1)


def _yaml(block: Block) -> Iterator[Document]:
    try:
        return iter([Document(block, node=node) for node in yaml_nodes.compose(block.text)])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if error.context and error.context.startswith("found duplicate anchor"):
            return iter(())  # YAML 1.2 allows it, PyYAML does not
        if error.problem and "nesting" in error.problem:
            raise _NotChecked("nested too deeply") from None
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise _NotParsed(what, 1 if mark is None else mark.line + 1) from None
    except yaml.reader.ReaderError as error:
        line = block.text.count("\n", 0, error.position) + 1
        raise _NotParsed(f"character {error.character!r} is not allowed", line) from None
    except RecursionError:
        raise _NotChecked("nested too deeply") from None


def _toml(block: Block) -> Iterator[Document]:
    if any(line.count(".") > MAX_DOTS_IN_LINE for line in block.text.split("\n")):
        raise _NotChecked(f"a line with more than {MAX_DOTS_IN_LINE} dots")
    try:
        tomllib.loads(block.text)
    except ValueError as error:
        place = re.search(r"at line (\d+)", str(error))
        last = block.text.rstrip("\n").count("\n") + 1
        raise _NotParsed(str(error), int(place[1]) if place else last) from None
    except RecursionError:
        raise _NotChecked("nested too deeply") from None
    return iter(())
