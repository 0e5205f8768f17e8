"""Makes small tasks with answers that can be checked, from a seed: arithmetic, dates, counting, logic, reading code."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from random import Random

FORM = "Think briefly, step by step. End with one line of the form `Answer: …` that holds nothing but the answer."
_FINAL = re.compile(r"^[\s>#*_`-]*answer[\s*_`]*:[\s*_`]*(.+?)[\s*_`]*$", re.IGNORECASE | re.MULTILINE)
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve")
_WORDS = ("deliberation", "proposal", "reviewer", "rubric", "consensus", "parallel", "referee", "terminal")


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A question and its answer. `wrong`: one that must be rejected."""

    kind: str
    question: str
    answer: str
    wrong: str

    @property
    def text(self) -> str:
        """The task's description."""
        return f"{self.question}\n\n{FORM}"

    def solved_by(self, text: str) -> bool:
        """Whether the text's last line `Answer: …` is right."""
        return final_answer(text) == _plain(self.answer)


def final_answer(text: str) -> str | None:
    """What stands behind the last `Answer:`, in lower case, without emphasis, full stop, or commas in numbers."""
    found = _FINAL.findall(text)
    return _plain(found[-1]) if found else None


def _plain(answer: str) -> str:
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", answer.strip().lower()).rstrip(".").strip()
    return re.sub(r"\s*,\s*", ", ", plain)


def puzzles(count: int, seed: int) -> list[Puzzle]:
    """Of all kinds in turn; equal seeds give equal tasks."""
    rng = Random(f"puzzles/{seed}")
    makers = tuple(_MAKERS.items())
    return [_made(*makers[index % len(makers)], rng) for index in range(count)]


def _made(kind: str, make: Callable[[Random], tuple[str, str, str]], rng: Random) -> Puzzle:
    return Puzzle(kind, *make(rng))


def _numbers(question: str, value: int, off: int) -> tuple[str, str, str]:
    return question, str(value), str(value + off)


def _product(rng: Random) -> tuple[str, str, str]:
    a, b, c = rng.randint(120, 980), rng.randint(13, 89), rng.randint(101, 999)
    return _numbers(f"What is {a} × {b} − {c}?", a * b - c, 10)


def _remainder(rng: Random) -> tuple[str, str, str]:
    a, b = rng.randint(10_000, 99_999), rng.randint(13, 89)
    return _numbers(f"What is the remainder of {a} divided by {b}?", a % b, 1)


def _later(rng: Random) -> tuple[str, str, str]:
    start, days = date(rng.randint(2019, 2028), rng.randint(1, 12), rng.randint(1, 28)), rng.randint(40, 320)
    question = f"Which date is {days} days after {start.isoformat()}? Write it as YYYY-MM-DD."
    end = start + timedelta(days)
    return question, end.isoformat(), (end + timedelta(1)).isoformat()


def _between(rng: Random) -> tuple[str, str, str]:
    start = date(rng.randint(2019, 2027), rng.randint(1, 12), rng.randint(1, 28))
    days = rng.randint(60, 700)
    end = start + timedelta(days)
    return _numbers(f"How many days are there from {start.isoformat()} to {end.isoformat()}?", days, 1)


def _letters(rng: Random) -> tuple[str, str, str]:
    words = " ".join(rng.sample(_WORDS, 4))
    letter = rng.choice("eralt")
    return _numbers(f'How often does the letter "{letter}" occur in "{words}"?', words.count(letter), 1)


def _binary(rng: Random) -> tuple[str, str, str]:
    value = rng.randint(130, 900)
    return f"Write the decimal number {value} in binary.", f"{value:b}", f"{value + 1:b}"


def _order(rng: Random) -> tuple[str, str, str]:
    names = rng.sample(_NAMES, 5)
    facts = [f"{taller} is taller than {smaller}" for taller, smaller in pairwise(names)]
    rng.shuffle(facts)
    return f"{'. '.join(facts)}. Who is the second tallest?", names[1], names[2]


def _sorting(rng: Random) -> tuple[str, str, str]:
    numbers = rng.sample(range(100, 999), 9)
    ordered = sorted(numbers, reverse=True)
    question = f"Which is the fourth largest of {', '.join(map(str, numbers))}?"
    return question, str(ordered[3]), str(ordered[4])


def _loop(rng: Random) -> tuple[str, str, str]:
    n, k, m = rng.randint(7, 12), rng.randint(3, 9), rng.randint(11, 29)
    total = 0
    for i in range(1, n + 1):
        total = (total * k + i) % m
    code = f"total = 0\nfor i in range(1, {n + 1}):\n    total = (total * {k} + i) % {m}\nprint(total)"
    return _numbers(f"What does this Python program print?\n\n{code}", total, 1)


def _price(rng: Random) -> tuple[str, str, str]:
    price, pieces, percent = 4 * rng.randint(6, 45), 5 * rng.randint(3, 17), 5 * rng.randint(2, 7)
    total = price * pieces * (100 - percent) // 100
    question = (
        f"{pieces} tickets at {price} euros each are sold with {percent} % off the whole. "
        "What do they cost, in whole euros?"
    )
    return _numbers(question, total, price)


_MAKERS = {
    "arithmetic": _product,
    "date": _later,
    "counting": _letters,
    "logic": _order,
    "code": _loop,
    "remainder": _remainder,
    "days": _between,
    "binary": _binary,
    "sorting": _sorting,
    "price": _price,
}
