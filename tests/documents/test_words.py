"""The documents as texts: short where they must be, in sentences that can be read once, naming what is there."""

import re
from pathlib import Path

import pytest

from tests.documents.blocks import DOCUMENTS, ROOT, SPAN, name_of, prose

MOST_WORDS_OF_THE_README = 1300
MOST_WORDS_OF_A_RELEASE = 2200
MOST_WORDS_OF_A_SENTENCE = 30
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"(?:fleet|workers|tests|deploy)(?:/[\w.*-]+)*/?(?:\.\w+)?")


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(path: Path) -> set[str]:
    return {slug(line) for line in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)}


def sentences(path: Path) -> list[str]:
    """Of paragraphs and lists: each cell, item and heading ends one."""
    text = re.sub(r"^\|.*\|$", "", prose(path), flags=re.MULTILINE)
    text = LINK.sub(lambda match: match[0].split("](")[0].lstrip("!["), text)
    parts = re.split(r"\n\s*\n|\n#+ |\n(?=\s*(?:[-*]|\d+\.) )", text)
    return [
        sentence for part in parts for sentence in re.split(r"(?<=[.!?])[*_]*\s+(?=[*_`]*\S)", " ".join(part.split()))
    ]


def test_the_readme_is_short() -> None:
    """A door, not a report."""
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS_OF_THE_README


def test_a_release_is_a_list_that_is_read_to_its_end() -> None:
    """What is new joins what it belongs to: no entry twice, and none outside a group."""
    for release in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        assert len(release.split()) <= MOST_WORDS_OF_A_RELEASE
        beginnings = [" ".join(line.split()[:4]) for line in release.splitlines() if line.startswith("- ")]
        assert len(beginnings) == len(set(beginnings))
        assert "\n- " not in release.partition("\n### ")[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sentences_are_short(path: Path) -> None:
    """At most 30 words each."""
    assert not [text for text in sentences(path) if len(text.split()) > MOST_WORDS_OF_A_SENTENCE]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """Files and headings of this repository."""
    for link in LINK.findall(path.read_text()):
        if link.startswith("https://"):
            continue
        target, _, heading = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert not heading or heading in headings(file), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_named_places_exist(path: Path) -> None:
    """A module, a folder or a test that was renamed is renamed here, too."""
    for span in SPAN.findall(path.read_text()):
        if PLACE.fullmatch(span) and "/" in span:
            assert (ROOT / span).exists(), span


def test_every_package_with_a_story_has_a_readme() -> None:
    """The README leads to all of them."""
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    assert {name_of(path) for path in DOCUMENTS} - {"README.md"} <= linked
