"""Describes how each kind of model server is asked: one table, and what a single server has shown beyond it.

What servers answer needs no table: errors, counts of tokens, thoughts and refusals are read in every notation that is
known (`events`, `failures`, `reasoning`), whoever sends them. `workers/README.md` has the table for people.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from fleet.messages import ChatMessage
from fleet.model_servers import Kind
from workers.llm.refusals import told_in
from workers.llm.requests import ModelRequest

Format = Literal["json_schema", "json_schema_plain", "json_object", "prompt"]
"""How an answer's schema is told, strictest first. `plain`: without bounds, which some servers refuse."""
STEPS: tuple[Format, ...] = ("json_schema", "json_schema_plain", "json_object", "prompt")


class Dialect(Struct, frozen=True, kw_only=True):
    """Of one kind of server. `omits`: fields that it refuses or has no use for."""

    path: str = "/chat/completions"
    key_header: Literal["bearer", "api-key", "x-api-key"] = "bearer"
    headers: dict[str, str] = {}
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omits: frozenset[str] = frozenset()
    format: Format = "json_schema"
    highest_temperature: float = 2.0
    messages_api: bool = False
    priority: Literal["low first", "high first"] | None = None
    counts_tokens: bool = False
    """It has vLLM's `/tokenize`."""
    loads_adapters: bool = False
    """It has `/v1/load_lora_adapter`, if its operator has switched that on."""


DIALECTS: dict[Kind, Dialect] = {
    "vllm": Dialect(priority="low first", counts_tokens=True, loads_adapters=True),
    "sglang": Dialect(priority="high first"),
    "llamacpp": Dialect(),
    "ollama": Dialect(),
    "openai": Dialect(max_tokens_field="max_completion_tokens"),
    "azure": Dialect(max_tokens_field="max_completion_tokens", key_header="api-key"),
    "anthropic": Dialect(
        path="/messages",
        key_header="x-api-key",
        headers={"anthropic-version": "2023-06-01"},
        omits=frozenset({"seed", "stream_options"}),
        format="prompt",
        highest_temperature=1.0,
        messages_api=True,
    ),
    "litellm": Dialect(),
    "other": Dialect(),
}

SCORES = 11
"""0 … 10: so many different ones may stand in one place."""
_PRIORITIES = {"propose": 4, "critique": 3, "revise": 2}
"""Lower is sooner: a deliberation that is nearly over holds what all its calls have cost. All other phases: 1."""


class Form:
    """How one model of one server is asked, as far as its refusals have taught. `notes`: what differs from plain."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.format: Format = dialect.format
        self.max_tokens_field = dialect.max_tokens_field
        self.omits: set[str] = set(dialect.omits)
        self.folds_system = False
        self.most_tokens: int | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def lessons(self) -> int:
        """How many refusals have taught it."""
        return len(self.notes)

    def learn(self, refusal: str, sent: dict[str, Any]) -> bool:
        """Whether the text of a 400 says of something that was `sent` that it may not be: then the form leaves it out
        from now on, and the call is worth another try.
        """
        note = self._learned(refusal, sent)
        if note is not None:
            self.notes = (*self.notes, note)
        return note is not None

    def _learned(self, refusal: str, sent: dict[str, Any]) -> str | None:
        text = told_in(refusal).lower()
        if not self.folds_system and _NO_SYSTEM.search(text) and _has_system(sent):
            self.folds_system = True
            return "the system message was sent as a part of the user's"
        if "max_completion_tokens" in text and self.max_tokens_field == "max_tokens":
            self.max_tokens_field = "max_completion_tokens"
            return "max_completion_tokens was sent in place of max_tokens"
        if (lowered := self._lowered(text, sent)) is not None:
            return lowered
        refuses = _REFUSES.search(text) is not None
        if "response_format" in sent and (
            (refuses and (_FORMAT.search(text) or _KEYWORDS.search(text))) or _NAMES_FORMAT.search(text)
        ):
            step = STEPS.index(self.format) + 1
            if self.format == "json_schema" and not _KEYWORDS.search(text):
                step += 1
            self.format = STEPS[step]
            return {
                "json_schema_plain": "the answer's schema was sent without bounds",
                "json_object": "the answer's schema stood in the prompt (response_format json_object)",
                "prompt": "the answer's schema stood in the prompt (no response_format)",
            }[self.format]
        for name, words in _OPTIONAL.items():
            if refuses and name in sent and re.search(words, text):
                self.omits |= {name, "stream_options"} if name == "stream" else {name}
                return f"{name} was not sent"
        return None

    def learn_most_tokens(self, refusal: str, sent: dict[str, Any]) -> bool:
        """Whether the text says that fewer tokens may be asked for than were: as `learn`."""
        note = self._lowered(told_in(refusal).lower(), sent)
        if note is not None:
            self.notes = (*self.notes, note)
        return note is not None

    def _lowered(self, text: str, sent: dict[str, Any]) -> str | None:
        for pattern in _MOST_TOKENS:
            for most in pattern.finditer(text):
                limit = int(next(group for group in most.groups() if group))
                if limit < sent.get(self.max_tokens_field, 0):
                    self.most_tokens = limit
                    return f"max_tokens was lowered to {limit}, the model's limit"
        return None


_REFUSES = re.compile(
    r"unsupported|not (?:currently |yet )?supported|(?:does|do) not support|doesn't support|not permitted"
    r"|extra_forbidden|extra (?:inputs|fields)|unrecogni[sz]ed|unknown (?:field|param|argument|name|key)"
    r"|unavailable|not (?:allowed|available)"
    r"|unexpected (?:keyword|field|argument|param)|only the default|invalid (?:param|argument|response_format|schema)"
    r"|invalid_(?:param|argument)|no longer|deprecated|not implemented|unable to|failed to|cannot (?:use|be used)"
    r"|not (?:a )?valid|not one of|only \S{1,12} (?:is|are) (?:allowed|supported|permitted)|was unexpected"
    r"|must (?:not be|be (?:unset|omitted|null|removed|less than))|greater than max allowed"
    r"|input should be|不支持|不允许|サポートされて"
)
_OPTIONAL = {
    "stream_options": r"\bstream[_ ]options\b",
    "stream": r"\bstream(?:ing)?\b.{0,40}(?:not|n't|only|不支持)"
    r"|(?:not support|unsupported|不支持).{0,20}\bstream(?:ing)?\b",
    "temperature": r"\btemperature\b",
    "seed": r"\bseed\b",
    "logprobs": r"\b(?:top_)?logprobs\b",
    "priority": r"\bpriority\b",
}
"""What a request can do without, by how a refusal names it. An answer that is not streamed comes whole."""
_NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt|instruction)s?.{0,30}(?:not|n't|un)"
    r"|(?:unsupported|unexpected|invalid|unknown) role.{0,20}system"
    r"|only user and assistant|roles must alternate|developer instruction is not enabled|role.{0,6}system.{0,40}not"
)
_MAX = r"max(?:imum)?[_ ](?:completion[_ ]|output[_ ]|new[_ ])?tokens"
_MOST_TOKENS = tuple(
    map(
        re.compile,
        (
            r"at most (\d+) (?:completion|output) tokens",
            r"maximum allowed number of output tokens[^\d]{0,60}(\d+)|> (\d+), which is the maximum",
            rf"(?:value|number) (?:for|of) \W?{_MAX}\W? (?:is|:)\D{{0,4}}(\d+)",
            rf"{_MAX}.{{0,40}}(?:\[\d+, ?(\d+)\]|between \d+ and (\d+))",
            rf"(?<!\+ )(?<!\+ `){_MAX}\b(?:(?!context|window|sequence|inputs).){{0,100}}?(?:at most"
            r"|less than or equal to|<=|not exceed|lower than|smaller than"
            r"|maximum(?: allowed)?(?: value)?(?: of| is)?|limit(?: of| is)?)"
            r" ?[`']?(\d+)",
            rf"less than or equal to [`']?(\d+).{{0,40}}{_MAX}",
        ),
    )
)
"""Words for how many tokens an answer may have at most. A window that is too small for both is another thing."""
_FORMAT = re.compile(
    r"response[_ ]format|json[_ ]?(?:schema|mode|object)|structured|guided|grammar|schema|output format"
)
_NAMES_FORMAT = re.compile(r"response[_ ]format|json[_ ]?(?:schema|mode|object)")
"""Whatever is said of these, the answer can do without them."""
_KEYWORDS = re.compile(r"maxlength|minlength|minimum|maximum|maxitems|minitems|additionalproperties|propert(?:y|ies) ")
_BOUNDS = frozenset({"maxLength", "minLength", "minimum", "maximum", "maxItems", "minItems", "pattern", "format"})


def _has_system(sent: dict[str, Any]) -> bool:
    return bool(sent.get("system")) or any(message.role == "system" for message in sent["messages"])


def body_of(
    form: Form, request: ModelRequest, model: str, max_tokens: int, extra: dict[str, Any], *, priority: bool
) -> dict[str, Any]:
    """What is sent. `extra` comes last."""
    dialect = form.dialect
    schema = request.answer_schema
    messages = request.messages
    if schema is not None and form.format in ("json_object", "prompt"):
        messages = _with_schema(messages, schema)
    if form.folds_system:
        messages = _folded(messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": min(request.temperature, dialect.highest_temperature),
        form.max_tokens_field: min(max_tokens, form.most_tokens or max_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if dialect.messages_api:
        body["messages"] = tuple(message for message in messages if message.role != "system")
        if system := "\n\n".join(message.content for message in messages if message.role == "system"):
            body["system"] = system
    if request.asks_for_odds and not dialect.messages_api:
        body |= {"logprobs": True, "top_logprobs": SCORES}
    if request.seed is not None:
        body["seed"] = request.seed
    if schema is not None and form.format != "prompt":
        body["response_format"] = _response_format(form.format, schema)
    if priority and dialect.priority is not None:
        rank = _PRIORITIES.get(request.phase, 1)
        body["priority"] = rank if dialect.priority == "low first" else 5 - rank
    for name in form.omits:
        body.pop(name, None)
    body = with_extra(body, extra)
    if "logprobs" not in body:
        body.pop("top_logprobs", None)
    return body


def with_extra(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """With what the settings put into every request: a value replaces a field, false takes it out."""
    return {name: value for name, value in {**body, **extra}.items() if extra.get(name) is not False}


def _response_format(format_: Format, schema: dict[str, Any]) -> dict[str, Any]:
    if format_ == "json_object":
        return {"type": "json_object"}
    sent = schema if format_ == "json_schema" else _without_bounds(schema)
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": sent, "strict": True}}


def _without_bounds(schema: Any) -> Any:
    """Answers are checked here anyway."""
    if isinstance(schema, list):
        return [_without_bounds(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    names = schema.get("properties")
    plain = {key: _without_bounds(value) for key, value in schema.items() if key not in _BOUNDS and key != "properties"}
    if isinstance(names, dict):
        plain["properties"] = {name: _without_bounds(value) for name, value in names.items()}
    return plain


def schema_in_words(schema: dict[str, Any]) -> str:
    """The schema as a part of a prompt."""
    return f"Answer with JSON only, nothing before or after it, that satisfies this JSON Schema:\n{_json(schema)}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _with_schema(messages: Sequence[ChatMessage], schema: dict[str, Any]) -> tuple[ChatMessage, ...]:
    """At the very end: all before it is the prefix that calls of a deliberation share."""
    *before, last = messages
    return (*before, msgspec.structs.replace(last, content=f"{last.content}\n\n{schema_in_words(schema)}"))


def _folded(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The system message in front of the first user message, for chat templates that know no system role."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if not system or not rest:
        return tuple(messages)
    first = msgspec.structs.replace(rest[0], content="\n\n".join([*system, rest[0].content]))
    return (first, *rest[1:])
