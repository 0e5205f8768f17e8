"""Takes halves of surrogate pairs out of what a server sent: JSON allows them, and UTF-8 does not."""

import re
from typing import Any

HALVES = re.compile("[\ud800-\udfff]")


def without_halves(value: Any) -> Any:
    """Any JSON, fit to be sent on."""
    match value:
        case str():
            return HALVES.sub("\ufffd", value)
        case list():
            return [without_halves(each) for each in value]
        case dict():
            return {without_halves(name): without_halves(each) for name, each in value.items()}
        case _:
            return value
