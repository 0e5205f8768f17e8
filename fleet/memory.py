"""Sparing a long-lived process work that leads to nothing."""

import gc

NEW_OBJECTS = 20_000
"""Between two looks for young garbage; Python's own 700 come with every few messages."""


def settle() -> None:
    """What has been imported and built by now stays for good: the garbage collector need not look at it ever again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 50)
