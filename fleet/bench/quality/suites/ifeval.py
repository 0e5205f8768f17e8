"""Reads IFEval (Zhou et al. 2023, arXiv:2311.07911): prompts with instructions that a program can check.

The checks are written anew from what the paper and the data say of each instruction. They split sentences in a simple
way, take no view of the language, and leave out the items that ask for one. So figures compare strategies within one
run, and not with published ones. An item is solved when every instruction is followed.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fleet.bench.quality.suites.items import Item, Suite, field, rows_of
from fleet.errors import ConfigError

KNOWN = ("67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",)
"""`data/input_data.jsonl` of google-research/instruction_following_eval: 541 prompts, 207,111 bytes, Apache-2.0."""
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}


def load(path: Path, also: str | None = None) -> Suite:
    """Raises `ConfigError`."""
    sha256, rows = rows_of(path, KNOWN, also)
    items, left_out = [], 0
    for number, row in enumerate(rows, start=1):
        where = f"{path}, item {number}"
        names, arguments = field(row, "instruction_id_list", list, where), field(row, "kwargs", list, where)
        if len(names) != len(arguments):
            raise ConfigError(f"{where}: {len(names)} instructions, arguments for {len(arguments)}")
        if any(name not in RULES for name in names):
            left_out += 1
            continue
        given = [{key: value for key, value in each.items() if value is not None} for each in arguments]
        check = partial(followed, tuple(zip(names, given, strict=True)))
        items.append(Item(str(row.get("key", number)), field(row, "prompt", str, where), check))
    return Suite("ifeval", sha256, items, left_out)


def followed(instructions: tuple[tuple[str, Mapping[str, Any]], ...], text: str) -> bool:
    """Whether a text follows all of them; one without any words follows none."""
    return bool(text.strip()) and all(RULES[name](text, **given) for name, given in instructions)


def _count(found: int, relation: str, wanted: int) -> bool:
    return found < wanted if relation == "less than" else found >= wanted


def _words(text: str, num_words: int, relation: str = "at least") -> bool:
    return _count(len(re.findall(r"\w+", text)), relation, num_words)


def _sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    ends = re.split(r"(?<=[.!?])[\"'”)\]]*\s+|\n{2,}", text.strip())
    return _count(sum(any(map(str.isalnum, each)) for each in ends), relation, num_sentences)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Parted by `***`; an empty one may stand at either end."""
    parts = [part.strip() for part in re.split(r"\*\*\*", text)]
    if parts and not parts[0]:
        parts = parts[1:]
    if parts and not parts[-1]:
        parts = parts[:-1]
    return len(parts) == num_paragraphs and all(parts)


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Parted by blank lines."""
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) != num_paragraphs or nth_paragraph > len(parts):
        return False
    words = parts[nth_paragraph - 1].split()
    return words[0].strip("\"'.,?!").lower() == first_word.lower()


def _keyword(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return _count(len(re.findall(re.escape(keyword), text, re.IGNORECASE)), relation, frequency)


def _letter(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return _count(text.lower().count(letter.lower()), let_relation, let_frequency)


def _capitals(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)
    return _count(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _existence(text: str, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*(?!\*)|-)\s*\S", text, re.MULTILINE)) == num_bullets


def _highlights(text: str, num_highlights: int) -> bool:
    return len(re.findall(r"\*\*[^*\n]*\w[^*\n]*\*\*|\*[^*\n]*\w[^*\n]*\*", text)) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text.strip(), re.IGNORECASE | re.DOTALL)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def _two(text: str) -> bool:
    """Two that differ, parted by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    kept = [part for part in parts if part]
    return len(kept) == 2 and all(parts[1:-1]) and kept[0] != kept[1]


def _repeat(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _postscript(text: str, postscript_marker: str) -> bool:
    pattern = _POSTSCRIPTS.get(postscript_marker) or re.escape(postscript_marker.lower())
    return re.search(pattern, text.lower()) is not None


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


RULES: Mapping[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "combination:repeat_prompt": _repeat,
    "combination:two_responses": _two,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text: any(option in text for option in _OPTIONS),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda text: re.search(r"<<[^\n]*\w[^\n]*>>", text) is not None,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _keyword,
    "keywords:letter_frequency": _letter,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": _end,
    "startend:quotation": lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
}
