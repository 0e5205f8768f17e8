"""The checked-in AsyncAPI document is the one that the code generates."""

from pathlib import Path

import msgspec

from fleet import asyncapi, subjects


def test_document_is_current() -> None:
    """`make asyncapi` was run after the last change of a message."""
    checked_in = Path(asyncapi.__file__).with_suffix(".json").read_text()
    assert checked_in == asyncapi.text(), "run `make asyncapi`"


def test_document_covers_every_published_subject() -> None:
    """Each published subject is a channel with a schema; it is AsyncAPI 3."""
    document = msgspec.json.decode(asyncapi.text())
    assert document["asyncapi"].startswith("3.")
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses >= {*asyncapi.PUBLISHED, subjects.REQUESTED}
