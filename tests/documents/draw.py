"""Draws fleet/architecture.svg from fleet/architecture.toml: `python -m tests.documents.draw`."""

import tomllib
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "fleet" / "architecture.toml"
PICTURE = SOURCE.with_suffix(".svg")

COLUMN, MARGIN, GAP = 178, 16, 10
BOX_H, BUS_H, ARROW_H, CORE_H = 78, 62, 104, 66
TOP = MARGIN
BUS = TOP + BOX_H + ARROW_H
BELOW = BUS + BUS_H + ARROW_H
CORE = BELOW + BOX_H
HEIGHT = CORE + CORE_H + MARGIN + GAP
Y = {"above": TOP, "below": BELOW, "core": CORE}
H = {"above": BOX_H, "below": BOX_H + CORE_H + GAP, "core": CORE_H}
FILL = {"above": "#eaf2fb", "below": "#f3f0e8", "core": "#fffdf7"}
STYLE = """text { font-family: sans-serif; fill: #1c2733 }
.title { font-size: 15px; font-weight: bold } .text { font-size: 13px } .room { font-size: 12px; fill: #5b6875 }
.name, .label { font-family: monospace; font-size: 12px } .name { font-weight: bold; font-size: 12.5px }
.step { font-size: 12px; font-weight: bold; fill: #ffffff }"""


def draw(picture: dict[str, Any]) -> str:
    """The SVG of the text."""
    width = 2 * MARGIN + COLUMN * len(picture["columns"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img">',
        "<title>How a deliberation moves through the fleet</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#35506b"/></marker></defs>',
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>',
        *(line for box in picture["boxes"] for line in _box(box)),
        f'<rect x="{MARGIN}" y="{BUS}" width="{width - 2 * MARGIN}" height="{BUS_H}" rx="6" fill="#27445f"/>',
        _text("title", _left(picture["caption"]["column"]), BUS - 14, picture["caption"]["text"]),
        *(line for index, column in enumerate(picture["columns"]) for line in _column(index, column)),
        *(line for arrow in picture["arrows"] for line in _arrow(arrow)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _left(column: int) -> int:
    return MARGIN + COLUMN * (column - 1)


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _box(box: dict[str, Any]) -> list[str]:
    side, x = box["side"], _left(box["from"]) + GAP / 2
    width = COLUMN * (box["to"] - box["from"] + 1) - GAP
    y, middle = Y[side], x + width / 2
    return [
        f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{H[side]}" rx="6" fill="{FILL[side]}" stroke="#9fb0c0"/>',
        _text("title", middle, y + 22, box["title"]),
        _text("text", middle, y + 41, box["text"]),
        _text("room", middle, y + 59, " · ".join(box["rooms"])),
    ]


def _column(index: int, column: dict[str, Any]) -> list[str]:
    x = _left(index + 1) + GAP / 2
    width = COLUMN - GAP
    return [
        f'<rect x="{x:g}" y="{BUS + 8}" width="{width}" height="{BUS_H - 16}" rx="4" fill="#ffffff"/>',
        _text("name", x + width / 2, BUS + 27, column["title"]),
        _text("room", x + width / 2, BUS + 45, column["text"]),
    ]


def _arrow(arrow: dict[str, Any]) -> list[str]:
    x = _left(arrow["column"]) + 20
    top, bottom = (TOP + BOX_H, BUS) if arrow["side"] == "above" else (BUS + BUS_H, BELOW)
    start, end = (bottom - 3, top + 3) if arrow["way"] == "up" else (top + 3, bottom - 3)
    both = ' marker-start="url(#tip)"' if arrow["way"] == "both" else ""
    middle = (top + bottom) / 2
    lines = [part.strip() for label in arrow["label"].split(",") for part in _broken(label.strip())]
    first = middle - 7.5 * (len(lines) - 1) + 4
    drawn = [
        f'<path d="M{x} {start}V{end}" stroke="#35506b" stroke-width="1.6" marker-end="url(#tip)"{both}/>',
        *(_text("label", x + 14, first + 15 * index, line, "start") for index, line in enumerate(lines)),
    ]
    if "step" in arrow:
        drawn.append(f'<circle cx="{x}" cy="{middle:g}" r="10" fill="#b4521e"/>')
        drawn.append(_text("step", x, middle + 4, str(arrow["step"])))
    return drawn


def _broken(label: str) -> list[str]:
    """A long subject stands on two lines, broken after a dot."""
    if len(label) <= 18:
        return [label]
    head, _, tail = label.rpartition(".")
    return [f"{head}.", f"  {tail}"]


def main() -> None:
    PICTURE.write_text(draw(tomllib.loads(SOURCE.read_text())))


if __name__ == "__main__":
    main()
