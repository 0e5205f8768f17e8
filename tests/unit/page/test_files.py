"""The built page: whole, of one origin, and nothing in it that loads or runs what a model wrote."""

import json
import re
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.page.files import NAMES, STATIC, write
from fleet.page.server import HEADERS

SOURCE = STATIC.parent / "source" / "src"


def test_the_document_loads_nothing_but_its_own_files() -> None:
    document = (STATIC / "index.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', document)
    assert set(loaded) <= {*NAMES, "data:,"}
    for where in (document, HEADERS["Content-Security-Policy"]):
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in where
        assert "unsafe" not in where


def test_the_sources_make_no_markup_of_text() -> None:
    """All that a model wrote passes through text nodes."""
    files = sorted(SOURCE.rglob("*.js"))
    assert len(files) > 5
    for file in files:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|eval\(|new Function|document\.write", file.read_text()
        )


def test_it_is_written_for_any_web_server(tmp_path: Path) -> None:
    write(tmp_path / "www", ["wss://nats.example:443"])
    assert sorted(path.name for path in (tmp_path / "www").iterdir()) == sorted([*NAMES, "settings.json"])
    assert json.loads((tmp_path / "www" / "settings.json").read_text()) == {"servers": ["wss://nats.example:443"]}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out: cannot write to"):
        write(tmp_path / "file" / "www", [])
