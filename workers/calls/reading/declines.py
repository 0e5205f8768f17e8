"""Recognises a revision that is a refusal to revise.

The prompt asks for one line that begins with `DECLINE:`; models write it with other colons, in other languages, with a
word before it. One that is missed would replace the author's proposal by
a notice, so what looks like one, and is far too short to be a solution, is taken for one.
"""

import re
from collections.abc import Iterable

from fleet.messages import DECLINE, ChatMessage
from workers.llm.failures import invalid

_WORD = DECLINE.removesuffix(":")
_STEM = rf"{_WORD[:-1]}(?:E|ED|ES|ING)\b"
_BARE = re.compile(
    rf"\s*(?:{_WORD}\b[|;,=>\s]*|[*_]*[\[({{【［（「『《〈]\s*{_WORD}D?\s*[\])}}】］）」』》〉][*_:：,\s—–-]*)"
)
_TAGGED = re.compile(r"\s*<decline[^>]*>(?P<reason>.*?)(?:</decline>\s*)?", re.IGNORECASE | re.DOTALL)
_COLON = r"[:：﹕∶]"
_MARK = r"""(?:[\s>#*_`"'“”«»\[\](){}【】［］（）「」『』《》〈〉–—•·\-]|\d{1,2}[.)])*"""
_CLOSED = r"""(?:[*_`"']+(?=\s|$))?"""
_BEGINS = re.compile(
    rf"{_MARK}(?:[^\W\d_ ]{{2,20}}: *)?{_STEM}(?:{_MARK}{_COLON}{_CLOSED}|{_MARK}(?:[—–\-.]|\n|$))",
    re.IGNORECASE,
)
_LINE = re.compile(rf"^{_MARK}{_WORD}D?{_MARK}{_COLON}{_CLOSED}(?P<reason>.*)", re.MULTILINE | re.DOTALL)
_LAST = re.compile(rf"(?P<reason>.*\S)\s*\n{_MARK}{_WORD}D?[\s*_`.!。]*", re.DOTALL)
_FENCE = re.compile(r"^\s*(?:`{3,}|~{3,})\w*\s*\n?(?P<inside>.*?)\n?\s*(?:`{3,}|~{3,})\s*$", re.DOTALL)
_OTHER_WORDS = re.compile(
    r"declin|déclin|rechaz|ablehn|abgelehnt|verzicht|beibehalt|reject|refus|rifiut|recus|unchanged"
    r"|keep(?:ing)? (?:my|the)|no (?:change|revision|further)|stands? as (?:it is|is)|sin cambios|inchang|unverändert"
    r"|отклон|отказ|без изменений"
    r"|拒绝|拒絕|谢绝|謝絕|保留|维持|維持|保持|不修改|不变|不變|辞退|却下|変更なし|거절|거부|유지|رفض|मना",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"{_MARK}[^\W\d_]{{2,24}}(?: [^\W\d_]{{2,24}})?{_MARK}{_COLON}\s*\S", re.UNICODE)
_CLOSING = ("**", "__", "*", "_", '"', "'", "`", "”", "»")
"""Marks that close what was opened before the word."""
MOST_PREAMBLE_CHARACTERS = 400
LONGEST_NOTICE_CHARACTERS = 600
SHARE_OF_PROPOSAL = 0.34
"""A notice has less than this of the length of the proposal that it would replace."""


def declined(text: str, messages: Iterable[ChatMessage] = ()) -> str | None:
    """The reason, for a text that declines to revise; None for any other.

    `messages`: the question, which shows the author's own proposal. Raises `AgentCallError` (InvalidAnswer) where no
    reason follows.
    """
    if fenced := _FENCE.match(text):
        inside = fenced["inside"]
        text = inside if _BEGINS.match(inside) else text
    if begins := _BEGINS.match(text):
        return _reason(text[begins.end() :])
    if tagged := _TAGGED.fullmatch(text):
        return _reason(tagged["reason"])
    if bare := _BARE.match(text):
        return _reason(text[bare.end() :])
    line = _LINE.search(text)
    if (
        line is not None
        and line.start() <= MOST_PREAMBLE_CHARACTERS
        and len(line["reason"]) <= LONGEST_NOTICE_CHARACTERS
    ):
        return _reason(line["reason"])
    if len(text) <= LONGEST_NOTICE_CHARACTERS and (last := _LAST.fullmatch(text)):
        return _reason(last["reason"])
    return text.strip() if _is_a_notice(text.strip(), own_proposal(messages)) else None


def _reason(text: str) -> str:
    reason = text.strip()
    for mark in _CLOSING:
        if reason.endswith(mark) and reason.count(mark) % 2:
            reason = reason.removesuffix(mark).rstrip()
    if not reason:
        raise invalid(f"a reason must follow {DECLINE}")
    return reason


def _is_a_notice(text: str, own: str) -> bool:
    """Far too short for a solution, and it says so in some language, or in the form `WORD: reason`."""
    if len(text) > min(LONGEST_NOTICE_CHARACTERS, SHARE_OF_PROPOSAL * len(own)):
        return False
    return _OTHER_WORDS.search(text) is not None or ("\n" not in text and _NAMED.match(text) is not None)


_SHOWN = re.compile(r"<proposal (?P<frame>\S+)>\n(?P<text>.*?)\n</proposal (?P=frame)>", re.DOTALL)


def own_proposal(messages: Iterable[ChatMessage]) -> str:
    """What the question to revise shows of the author's own; empty where it shows none."""
    for message in messages:
        if message.role == "user" and (shown := _SHOWN.search(message.content)):
            return shown["text"]
    return ""
