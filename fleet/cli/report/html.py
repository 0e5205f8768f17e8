"""Renders a report as one HTML file that loads nothing and runs nothing, whatever is written in it.

There is no script, no link and no image in it; its policy forbids them besides, and allows the one style sheet by its
hash. Controls in texts are visible.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import assert_never

from fleet.cli.report.blocks import Block, Difference, Document, Folded, Grid, Items, Prose, Quote, Section
from fleet.observability.visible import visible

STYLE = files("fleet.cli.report").joinpath("report.css").read_text()
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
_TAGS = {"same": "span", "gone": "del", "new": "ins", "left out": "i"}
_SIGNS = {"same": "  ", "gone": "- ", "new": "+ ", "left out": "… "}


def render(document: Document) -> str:
    """The whole file."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="referrer" content="no-referrer">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(document.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body><main>",
            f"<h1>{_text(document.title)}</h1>",
            *_blocks(document.lead),
            *(line for section in document.sections for line in _section(section)),
            "</main></body>",
            "</html>",
            "",
        ]
    )


def _text(text: str) -> str:
    return escape(visible(text))


def _section(section: Section) -> Iterable[str]:
    yield f"<h{section.level}>{_text(section.title)}</h{section.level}>"
    yield from _blocks(section.blocks)


def _blocks(blocks: Sequence[Block]) -> Iterable[str]:
    for block in blocks:
        yield from _block(block)


def _block(block: Block) -> Iterable[str]:
    match block:
        case Prose(text):
            yield f'<p dir="auto">{_text(text)}</p>'
        case Items(items):
            yield "<ul>" + "".join(f'<li dir="auto">{_text(item)}</li>' for item in items) + "</ul>"
        case Grid(head, rows):
            titles = "".join(f'<th scope="col">{_text(title)}</th>' for title in head)
            yield f'<div class="grid"><table><thead><tr>{titles}</tr></thead><tbody>'
            for row in rows:
                yield "<tr>" + "".join(f'<td dir="auto">{_text(cell)}</td>' for cell in row) + "</tr>"
            yield "</tbody></table></div>"
        case Quote(text):
            # A line end right behind <pre> would be none.
            yield f'<pre dir="auto">\n{_text(text)}</pre>'
        case Difference(lines):
            yield '<pre class="difference" dir="auto">\n' + "\n".join(map(_changed, lines)) + "</pre>"
        case Folded(title, blocks):
            yield f"<details><summary>{_text(title)}</summary>"
            yield from _blocks(blocks)
            yield "</details>"
        case _:
            assert_never(block)


def _changed(line: tuple[str, str]) -> str:
    change, text = line
    return f"<{_TAGS[change]}>{_SIGNS[change]}{_text(text)}</{_TAGS[change]}>"
