"""Writes the simulated model's texts, and counts their tokens. Pure: no clock, no global random source.

A *token* is one match of `_TOKEN`: up to 12 letters of a word with the space before them, one punctuation
mark with the space before it, or a run of white space. Every character is in exactly one token, so the tokens
joined are the text. English has about 1.2 of them a word, near enough to a real tokenizer.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import TypeAlias
from zlib import crc32

import msgspec

MARK = "[simulated]"

Message = tuple[str, str]
"""Role and text of one message."""

TokenIds: TypeAlias = "array[int]"  # quoted: array takes a parameter at run time only from Python 3.12 on

_TOKEN = re.compile(r" ?\w{1,12}| ?[^\w\s]|\s{1,16}")
_VOCABULARY = 151_936
_SPREAD = 0.4


def split_tokens(text: str) -> list[str]:
    """The tokens of `text`, in order; joined, they are `text`."""
    return _TOKEN.findall(text)


@lru_cache(maxsize=65_536)
def _token_id(token: str) -> int:
    return crc32(token.encode("utf-8", "replace")) % _VOCABULARY


@lru_cache(maxsize=256)  # texts repeat: one system prompt and one task are in every call of a deliberation
def _cached_ids(text: str) -> bytes:
    return array("I", map(_token_id, split_tokens(text))).tobytes()


def token_ids(text: str) -> TokenIds:
    """One number in 0 … 151,935 per token; equal tokens have equal numbers, in every process."""
    return array("I", _cached_ids(text))


def prompt_ids(messages: Iterable[Message]) -> TokenIds:
    """Tokens of a whole conversation, laid out as a chat template would."""
    parts = bytearray()
    for role, text in messages:
        parts += _cached_ids(f"<|{role}|>\n")
        parts += _cached_ids(text)
        parts += _cached_ids("\n")
    parts += _cached_ids("<|assistant|>\n")
    return array("I", bytes(parts))


def dice(*key: object) -> Random:
    """A random source that depends on `key` (anything that is JSON) and on nothing else."""
    return Random(blake2b(msgspec.json.encode(key), digest_size=16).digest())


_TASK = re.compile(r"(?is)<task\b[^>]*>\s*(.+?)\s*</task>")
_TASK_LINE = re.compile(r"(?im)^[#* \t]*task(?: description)?[*\s]*(?::|$)[*\s]*(\S[^\n]*)")
_WORD = re.compile(r"[^\W\d_][\w-]{1,24}")
_LOOK_AT_CHARACTERS = 8_192
_MOST_PHRASES = 8
_DULL = frozenset(
    """
    about above after again agent also answer answers because been before being below best better between
    both build could create design develop does done each every from give given good have here implement
    improve into itself just like made make many more most much must never only other plan please proposal
    propose reply review reviews should simulated since some such suggest task than that their them then
    there these they this those through under until using very want were what when where which while will
    with without would write your
    """.split()  # noqa: SIM905 - seventy quoted words are no easier to read
)


def keywords(messages: Sequence[Message]) -> list[str]:
    """Up to 8 phrases ("rate limiter") that tell what is asked for; never empty.

    Taken from a `<task>` or a line that begins with "task", where a message has one, else from the
    last message of the user.
    """
    for _, text in reversed(messages):
        head = text[:_LOOK_AT_CHARACTERS]
        if (match := _TASK.search(head) or _TASK_LINE.search(head)) and (phrases := _telling(match.group(1))):
            return phrases
    prompt = next((text for role, text in reversed(messages) if role == "user"), "")
    return _telling(prompt[:_LOOK_AT_CHARACTERS]) or ["design", "service"]


def _telling(text: str) -> list[str]:
    phrases: list[list[str]] = []
    end = -1
    for match in _WORD.finditer(text):
        word = match.group()
        if word.casefold() in _DULL or (len(word) < 4 and not word.isupper()):
            continue
        if phrases and len(phrases[-1]) < 3 and text[end : match.start()] == " ":
            phrases[-1].append(word)
        elif len(phrases) == _MOST_PHRASES:
            break
        else:
            phrases.append([word])
        end = match.end()
    return list(dict.fromkeys(" ".join(phrase) for phrase in phrases))


_STEPS = (
    "Start from {a}: write down what it must never lose, and what may be late.",
    "Keep {a} and {b} apart, so that either can change or fail alone.",
    "Put a limit on {a}, and refuse clearly when it is reached.",
    "Measure {a} before and after, and keep the numbers beside the decision.",
    "Give {a} one owner, and let {b} read from it.",
    "Test {a} by stopping {b} halfway: nothing may be done twice.",
    "Begin with the plainest {a} that works; replace it when a number asks for it.",
    "Log every refusal of {a} with its reason, never with a secret.",
    "Roll {a} out to one percent first, with a switch back.",
    "Set a deadline on every wait for {b}, and say what happens when it passes.",
    "Store what {a} decides before telling {b}, so that a crash repeats nothing.",
    "Write down how {a} is restored, and practise it.",
    "Price {a} at ten times the load, and note what breaks first.",
    "Raise an alarm on {b} only where a person can act on it.",
)


def sentences(words: Sequence[str], rng: Random) -> Iterator[str]:
    """Endless advice about `words`; no sentence pattern comes again before all have been used."""
    while True:
        for pattern in rng.sample(_STEPS, len(_STEPS)):
            first = rng.randrange(len(words))
            second = (first + 1 + rng.randrange(max(1, len(words) - 1))) % len(words)
            yield pattern.format(a=words[first], b=words[second])


def proposal(words: Sequence[str], rng: Random, typical_tokens: int) -> list[str]:
    """Tokens of a short proposal: a heading and numbered steps, `typical_tokens` long give or take 40 %."""
    fewest, most = (max(4, round(typical_tokens * share)) for share in (1 - _SPREAD, 1 + _SPREAD))
    target = rng.randint(fewest, most)
    tokens = split_tokens(f"{MARK} Proposal: {', '.join(words[:2])}")
    for number, sentence in enumerate(sentences(words, rng), start=1):
        if len(tokens) >= target:
            break
        gap = "\n\n" if number == 1 else "\n"
        step = split_tokens(f"{gap}{number}. {sentence}")
        if len(tokens) + len(step) > most and len(tokens) >= fewest:
            break
        tokens += step
    return tokens if len(tokens) <= most else [*tokens[: target - 1], "."]
