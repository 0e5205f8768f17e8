"""The picture of the README: drawn from its text, and naming only what is there."""

import re
import tomllib
import xml.etree.ElementTree as ET

import pytest

from fleet import subjects
from tests.documents.blocks import ROOT
from tests.documents.draw import PICTURE, SOURCE, draw

TEXT = tomllib.loads(SOURCE.read_text())
NAMES = {value for name, value in vars(subjects).items() if name.isupper() and isinstance(value, str)}


def test_it_is_what_its_text_draws() -> None:
    """`make picture` was run after the last change."""
    assert PICTURE.read_text() == draw(TEXT)
    ET.fromstring(PICTURE.read_text())


@pytest.mark.parametrize("column", TEXT["columns"], ids=lambda column: column["title"])
def test_each_column_is_a_stream_or_the_bucket(column: dict[str, str]) -> None:
    """As spelled in `fleet/subjects.py`."""
    assert column["title"] in NAMES


def test_each_arrow_is_a_subject() -> None:
    """Of those on the wire, but for the state."""
    labels = {label.strip() for arrow in TEXT["arrows"] for label in arrow["label"].split(",")}
    assert labels - {"state of the task"} <= NAMES


def test_each_room_exists() -> None:
    """A package that was renamed is renamed in the picture, too."""
    assert all((ROOT / room / "__init__.py").exists() for box in TEXT["boxes"] for room in box["rooms"])


def test_steps_are_those_of_the_readme() -> None:
    """The README tells each numbered step."""
    told = re.search(r"architecture\.svg\)\n\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert told is not None
    assert {arrow["step"] for arrow in TEXT["arrows"] if "step" in arrow} == {
        int(number) for number in re.findall(r"^(\d+)\. ", told[1], re.MULTILINE)
    }
