"""Makes text that somebody else wrote safe to read: it controls neither a terminal, nor the order of what is read.

A model, a client or a server may write whatever it likes. `visible` is for people, `json_text` for programs.
"""

import json
import re
from typing import Any

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES_AND_TAGS = "\u2028\u2029\U000e0000-\U000e007f"
_CONTROLS = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}{_LINES_AND_TAGS}\ud800-\udfff]")
_IN_JSON = re.compile(f"[\x7f-\x9f{_BIDI}{_LINES_AND_TAGS}\ud800-\udfff]")
LAST_ESCAPED_BY_BYTE = 0x9F


def visible(text: str) -> str:
    r"""Controls are shown: C0 (but \n and \t) and C1 as `\x1b`, those that turn or hide text as `‹U+202E›`."""
    return _CONTROLS.sub(_shown, text.replace("\r\n", "\n"))


def json_text(body: bytes | str) -> str:
    """JSON that means the same to the bit, with every control escaped, those that turn or hide text too."""
    text = body.decode() if isinstance(body, bytes) else body
    return _IN_JSON.sub(lambda match: json.dumps(match[0])[1:-1] if match[0] > "\x7f" else r"\u007f", text)


def to_json(value: Any) -> str:
    """One line of ASCII."""
    return json_text(json.dumps(value))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code <= LAST_ESCAPED_BY_BYTE else f"‹U+{code:04X}›"
