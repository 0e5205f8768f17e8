"""Splits a reasoning model's thoughts from its text, by the notation of its family, where its server does not.

    <think>…</think> answer              Qwen, DeepSeek, GLM; also <thinking>, <thought>, <mm:think>, <think time=3> …
    [THINK]…[/THINK] answer              Magistral; ◁think▷…◁/think▷ Kimi; <|START_THINKING|> Cohere
    …</think> answer                     the chat template has opened the tag itself
    <|channel|>analysis<|message|>…      gpt-oss: the channel `final` is the answer
    <think>…</think><answer>…</answer>   Hunyuan and others frame the answer as well
    Here is my thought process: …        Granite; Apriel: `Here are my reasoning steps: … [BEGIN FINAL RESPONSE]`
    <details type="reasoning">, *Thinking…* and a quote, ```thinking: relays that show thoughts to people

A text may speak of such tags: a tag in code, in quotes or between two words of a line is a part of the answer.
"""

import re

_NAME = (
    r"(?:[\w-]+:)?(?:think|(?:ant[_-]?)?thinking(?:_process)?|thoughts?|thought_process|reasoning|reasoning_content"
    r"|scratch_?pad|inner_monologue|chain_of_thought)"
)
OPEN = re.compile(
    rf"<{_NAME}(?:\s[^<>\n]*)?>|\[think(?:ing)?\]|◁think▷"
    r"|<\|(?:(?:begin|start)_of_thought|start_thinking|think|thinking)\|>|<\|channel>thought|<unused94>(?:thought)?",
    re.IGNORECASE,
)
CLOSE = re.compile(
    rf"</{_NAME}\s*>|\[/think(?:ing)?\]|◁/think▷|<\|(?:end_of_thought|end_thinking|/think|/thinking)\|>"
    r"|<channel\|>|<unused95>",
    re.IGNORECASE,
)
LONGEST_TAG = 64
"""Characters within which an opening tag at the beginning is known to be one, or not."""
_FIRST = "<[◁"
_FRAME = re.compile(
    r"\s*(?:<answer>(?P<a>.*)</answer>|<response>(?P<r>.*)</response>"
    r"|<\|(?:begin_of_solution|start_response)\|>(?P<s>.*?)(?:<\|(?:end_of_solution|end_response)\|>)?)\s*",
    re.IGNORECASE | re.DOTALL,
)
_UNCLOSED_FRAME = re.compile(r"\s*<(?P<name>answer|response)>\s*(?!.*</(?P=name)>)", re.IGNORECASE | re.DOTALL)
_LEADING_FRAME = re.compile(
    r"\s*<(?P<name>analysis|reflection|(?:inner|internal)[_-]?(?:thoughts?|monologue|reasoning)|cot)>(?P<thought>.*?)"
    r"</(?P=name)>(?P<answer>.*\S.*)",
    re.IGNORECASE | re.DOTALL,
)
"""Tags that may as well be a part of an answer: they hold thoughts where they begin a text that goes on after them."""
_WORDED = tuple(
    re.compile(rf"\s*{form}", re.IGNORECASE | re.DOTALL)
    for form in (
        r"here(?: is|['’]s) my thought process:(?P<thought>.*?)here(?: is|['’]s) my response:(?P<answer>.*\S.*)",
        r"here are my reasoning steps:(?P<thought>.*?)\[BEGIN FINAL RESPONSE\](?P<answer>.*?)"
        r"(?:\[END FINAL RESPONSE\]\s*)?",
        r"<details type=\W?reasoning\b[^>]*>(?P<thought>.*?)</details>(?P<answer>.*\S.*)",
        r"&lt;think(?:ing)?&gt;(?P<thought>.*?)&lt;/think(?:ing)?&gt;(?P<answer>.*\S.*)",
        r"(?:> *)?[*_]{1,3}think(?:ing)?(?:\.{3}|…|:)?[*_]{1,3}[ :]*\n+(?P<thought>(?:>[^\n]*\n+)+)(?P<answer>.*\S.*)",
        r"(?P<fence>`{3,})(?:think|thinking|thought|reasoning)[ \t]*\n(?P<thought>.*?)"
        r"\n(?P=fence)[ \t]*\n(?P<answer>.*\S.*)",
    )
)
"""Thoughts that begin a text, in the words of a model's training, or as a relay shows them to people."""
_EMPTY = re.compile(r"\s*<think ?/>\s*", re.IGNORECASE)
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)
_BARE_CHANNELS = re.compile(r"\s*analysis(?P<thought>.+?)assistant\s?final(?P<answer>.*)", re.DOTALL)
_FILLER = re.compile(
    r"\s*(?:(?:ok(?:ay)?|sure|alright|let me|let's|let us|h+m+|well|certainly|of course|right|first|got it|understood"
    r"|i'll|i will|i need|i should|i am going|bien|d'accord|claro|vale|gut)\b|好|嗯|让我|はい)[^\n]{0,160}\s*",
    re.IGNORECASE,
)


class ReasoningSplitter:
    """Takes a text piece by piece, and tells what of it is surely the answer as it comes: all, but for thoughts whose
    opening tag begins it. The last word has `split_reasoning`, once the text is whole.
    """

    def __init__(self) -> None:
        self._held = ""
        self._blank: list[str] = []
        """What came before the first character that can be seen."""
        self._state = "beginning"

    def feed(self, piece: str) -> str:
        """The part of the answer that is known to be one now."""
        if self._state == "answer":
            return piece
        if self._state == "beginning" and not self._held and not piece.strip():
            self._blank.append(piece)
            return ""
        self._held += piece
        if self._state == "beginning":
            return self._begin()
        return self._think()

    def rest(self) -> str:
        """What was held back at the end, and was no tag after all."""
        held, self._held = "".join([*self._blank, self._held]), ""
        return held if self._state == "beginning" else ""

    def _begin(self) -> str:
        start = self._held.lstrip()
        if not start:
            return ""
        if start[0] in _FIRST:
            if tag := OPEN.match(start):
                self._state, self._held = "thoughts", start[tag.end() :]
                return self._think()
            if start.startswith("<|channel|>") or "<|channel|>".startswith(start):
                return ""
            if len(start) < LONGEST_TAG and not re.search(r"[>\]▷]|\s\s", start):
                return ""
        self._state = "answer"
        held, self._held = "".join([*self._blank, self._held]), ""
        return held

    def _think(self) -> str:
        if self._state == "after":
            answer, self._held = self._held.lstrip(), ""
            if answer:
                self._state = "answer"
            return answer
        if closing := CLOSE.search(self._held):
            answer = self._held[closing.end() :].lstrip()
            self._held = answer
            if answer:
                self._state, self._held = "answer", ""
            else:
                self._state = "after"
            return answer
        self._held = self._held[-LONGEST_TAG:]
        return ""


def split_reasoning(text: str) -> tuple[str, str]:
    """Thoughts, and the answer without them; an answer without thoughts stays as it is."""
    if "<|channel|>" in text and "<|message|>" in text:
        return _channels(text)
    if match := _BARE_CHANNELS.fullmatch(text):
        return match["thought"].strip(), match["answer"].lstrip()
    if empty := _EMPTY.match(text):
        return "", text[empty.end() :]
    thoughts, rest = _leading(text)
    if not thoughts and rest is text:
        thoughts, rest = _unopened(text)
    thoughts, rest = _inside(thoughts, rest)
    if thoughts and (unclosed := _UNCLOSED_FRAME.match(rest)) and not _FRAME.fullmatch(rest):
        rest = rest[unclosed.end() :]
    frame = _FRAME.fullmatch(rest)
    if frame is not None:
        rest = next(part for part in (frame["a"], frame["r"], frame["s"]) if part is not None).strip()
    return "\n".join(thoughts).strip(), rest


def _channels(text: str) -> tuple[str, str]:
    thoughts: list[str] = []
    answers: list[str] = []
    first = text.index("<|channel|>")
    before = text[:first].removesuffix("<|start|>assistant").strip()
    for match in _CHANNEL.finditer(text):
        (answers if match["name"].lower() == "final" else thoughts).append(match["text"])
    return "\n".join([*([before] if before else []), *thoughts]).strip(), "".join(answers).strip()


def _closed(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> re.Match[str] | None:
    """What closes a block whose opening tag came just before `text`: the tag that balances it, else the first."""
    tags = sorted([*opening.finditer(text), *closing.finditer(text)], key=lambda tag: tag.start())
    depth = 1
    for tag in tags:
        depth += -1 if tag.re is closing else 1
        if depth == 0:
            return tag
    return closing.search(text)


def _leading(text: str) -> tuple[list[str], str]:
    """Blocks that begin the text, and what follows them. One that is not closed has no answer after it."""
    thoughts: list[str] = []
    rest = text
    for form in (_LEADING_FRAME, *_WORDED):
        if framed := form.fullmatch(text):
            return [framed["thought"].strip()], framed["answer"].strip()
    while tag := OPEN.match(rest.lstrip()):
        inner = rest.lstrip()[tag.end() :]
        closing = _closed(inner, OPEN, CLOSE)
        if closing is None:
            return [*thoughts, inner.strip()], ""
        thoughts.append(inner[: closing.start()].strip())
        rest = _without_closers(inner[closing.end() :])
    return thoughts, rest if thoughts else text


def _without_closers(text: str) -> str:
    """A tag may be closed twice."""
    rest = text.lstrip()
    while closing := CLOSE.match(rest):
        rest = rest[closing.end() :].lstrip()
    return rest


def _unopened(text: str) -> tuple[list[str], str]:
    """Thoughts that begin without their tag, up to one that closes them."""
    for closing in CLOSE.finditer(text):
        if _is_spoken_of(text, closing):
            continue
        before = text[: closing.start()]
        if any(not _is_spoken_of(text, opening) for opening in OPEN.finditer(before)) or OPEN.search(before):
            break
        return [before.strip()], _without_closers(text[closing.end() :])
    return [], text


def _inside(thoughts: list[str], text: str) -> tuple[list[str], str]:
    """Blocks further on, cut out; a word of filler before the first block goes with it."""
    kept: list[str] = []
    rest = text
    for opening in OPEN.finditer(text):
        begin = len(text) - len(rest)
        if opening.start() < begin or _is_spoken_of(text, opening):
            continue
        closing = CLOSE.search(text, opening.end())
        if closing is None:
            break
        before = text[begin : opening.start()]
        if not kept and not thoughts and _FILLER.fullmatch(before):
            thoughts = [*thoughts, before.strip()]
        elif before.strip():
            kept.append(before.rstrip() if before.endswith("\n") else before)
        thoughts = [*thoughts, text[opening.end() : closing.start()].strip()]
        rest = text[closing.end() :]
    if rest is text:
        return thoughts, text
    rest = _without_closers(rest)
    if kept and rest:
        kept.append("\n" if not kept[-1].endswith("\n") else "")
    return thoughts, "".join(kept) + rest


def _is_spoken_of(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag is a part of what is said: in code, in quotes, or between two words."""
    before, after = text[: tag.start()], text[tag.end() :]
    if before.count("```") % 2:
        return True
    line = before.rpartition("\n")[2]
    if line.count("`") % 2:
        return True
    left, right = before[-1:], after[:1]
    if left in ("'", '"', "“", "‘", "(", "`") or right in ("'", '"', "”", "’", ")", "`"):
        return True
    opens_line, ends_line = not line.strip(), not after.partition("\n")[0].strip()
    return left.isspace() and not opens_line and not ends_line and (right.isspace() or right in ",.;:!?")
