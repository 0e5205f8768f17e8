"""Decides the answers of one chat request, follows its progress, and encodes its chunks. Knows no sockets."""

import time
from collections.abc import Iterator
from hashlib import blake2b
from random import Random

from msgspec import UNSET, Raw, Struct, structs

from workers.simulator import odds, traits, wire
from workers.simulator.config import SimulatorConfig
from workers.simulator.engine import ModelCounters
from workers.simulator.faults import FaultKind
from workers.simulator.schema_values import Schema, UnsupportedSchema, instance
from workers.simulator.text import TokenIds, dice, keywords, split_tokens

_ANY_OBJECT: Schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


class Call(Struct, kw_only=True):
    """One chat request as it came and went; times in seconds since the epoch.

    `outcome` is running, completed, aborted (the client left), rejected (a 4xx, or 503 for a full queue), or
    the name of the fault that struck. `body` is the JSON sent, or the text if it was no valid request; `digest` that of
    the text of its first answer (see `digest_of`).
    """

    request_id: str
    body: Raw | str
    started: float
    ended: float | None = None
    outcome: str = "running"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    digest: str = ""

    def end(self, outcome: str) -> None:
        """Note the end; a fault that struck before remains the outcome."""
        self.ended = time.time()
        if self.outcome == "running":
            self.outcome = outcome


def digest_of(text: str) -> str:
    """By which a text that was said is known again, wherever white space around it was cut."""
    return blake2b(text.strip().encode(), digest_size=12).hexdigest()


class Answer(Struct, frozen=True):
    """The first `thoughts` of the tokens are reasoning."""

    tokens: list[str]
    finish_reason: wire.FinishReason
    thoughts: int = 0

    def text(self, low: int, high: int) -> str:
        """What the tokens low … high add to the answer."""
        return "".join(self.tokens[max(low, self.thoughts) : high])

    def reasoning(self, low: int, high: int) -> str:
        """What they add to the reasoning."""
        return "".join(self.tokens[low : min(high, self.thoughts)])


class Job(Struct, kw_only=True):
    """A valid chat request on its way through the server."""

    call: Call
    chat: wire.ChatRequest
    model: str
    counters: ModelCounters
    ids: TokenIds
    answers: list[Answer]
    fault: FaultKind | None
    created: int

    @property
    def id(self) -> str:
        return f"chatcmpl-{self.call.request_id}"

    @property
    def length(self) -> int:
        return max(len(answer.tokens) for answer in self.answers)

    @property
    def usage(self) -> wire.Usage:
        prompt, completion = self.call.prompt_tokens, self.call.completion_tokens
        return wire.Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=wire.CachedTokens(self.call.cached_tokens),
        )

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Request-Id": self.call.request_id}

    def strike(self) -> None:
        """Note that the fault has happened."""
        if self.fault is not None:
            self.call.outcome = self.fault

    def count(self, low: int, high: int) -> None:
        """Note that tokens low … high of every choice have been generated."""
        made = sum(len(answer.tokens[low:high]) for answer in self.answers)
        self.call.completion_tokens += made
        self.counters.generation_tokens += made

    def chunk(self, *choices: wire.ChunkChoice, usage: wire.Usage | None = None) -> bytes:
        return wire.sse(
            wire.Chunk(
                id=self.id,
                created=self.created,
                model=self.model,
                choices=list(choices),
                usage=UNSET if usage is None else usage,
            )
        )

    def finish(self) -> None:
        """Note that the answer is complete; of the faults, "empty" and "malformed" come this far."""
        self.strike()
        for answer in self.answers:
            self.counters.finished[answer.finish_reason] += 1


def decide_answers(
    chat: wire.ChatRequest,
    model: str,
    messages: list[tuple[str, str]],
    most_tokens: int,
    config: SimulatorConfig,
    request_id: str,
) -> list[Answer]:
    """One answer per choice, decided by the request and the simulator's seed alone. Raises ApiError.

    A request that samples without a seed of its own is told apart from its like by its id.
    """
    seed = request_id if chat.seed is None and not chat.is_greedy else chat.seed
    words = keywords(messages)
    schema = _schema(chat.response_format)
    prompt = next((text for role, text in reversed(messages) if role == "user"), "")
    answers = []
    for index in range(chat.choices):
        key = (config.seed, model, messages, seed, chat.is_greedy, index)
        # Whims have dice of their own: without them the answer is what it would have been.
        rng, whim = dice(*key), dice(*key, "whim")
        if schema is None:
            tokens = traits.text(prompt, words, rng, whim, config)
        else:
            best = traits.obeyed(messages, whim, config)
            tokens = split_tokens(wire.encode(_instance(schema, words, rng, best)).decode())
        tokens = traits.thoughts(words, whim, config.reasoning_tokens) + tokens
        cut = len(tokens) > most_tokens
        answers.append(Answer(tokens[:most_tokens], "length" if cut else "stop", config.reasoning_tokens))
    return answers


def _instance(schema: Schema | bool, words: list[str], rng: Random, best: list[str]) -> object:
    try:
        return instance(schema, words, rng, best)
    except UnsupportedSchema as error:
        raise wire.bad_request(str(error), "response_format") from error


def spoil(answers: list[Answer], fault: FaultKind | None) -> list[Answer]:
    """What of the answers is said before the fault strikes."""
    match fault:
        case "empty":
            return [Answer([], "stop") for _ in answers]
        case "stall" | "truncate" | "malformed":
            return [structs.replace(a, tokens=a.tokens[: max(1, len(a.tokens) // 2)]) for a in answers]
        case _:
            return answers


def _schema(format_: wire.ResponseFormat | None) -> Schema | bool | None:
    """The schema the answer has to follow, None for plain text. Raises ApiError."""
    if format_ is None or format_.type == "text":
        return None
    if format_.type == "json_object":
        return _ANY_OBJECT
    if format_.json_schema is None:
        raise wire.bad_request("`json_schema` is required for the type json_schema", "response_format")
    return format_.json_schema.schema


def opening(job: Job) -> bytes:
    """The chunk that names the role, for every choice."""
    return b"".join(
        job.chunk(wire.ChunkChoice(index=index, delta=wire.Delta(role="assistant", content="")))
        for index in range(len(job.answers))
    )


def content(job: Job, low: int, high: int, step: int) -> bytes:
    """The chunks for tokens low … high, at most `step` tokens each, the choices taking turns."""
    return b"".join(
        job.chunk(choice)
        for position in range(low, high, step)
        for index, answer in enumerate(job.answers)
        for choice in _choices(job, index, answer, position, min(position + step, high))
    )


def _choices(job: Job, index: int, answer: Answer, low: int, high: int) -> Iterator[wire.ChunkChoice]:
    if thought := answer.reasoning(low, high):
        yield wire.ChunkChoice(index=index, delta=wire.Delta(reasoning_content=thought))
    if piece := answer.text(low, high):
        yield wire.ChunkChoice(index=index, delta=wire.Delta(content=piece), logprobs=_logprobs(job, answer, low, high))


def _logprobs(job: Job, answer: Answer, low: int, high: int) -> wire.Logprobs | None:
    """Of the tokens of the text among these."""
    if not job.chat.logprobs:
        return None
    return odds.of_tokens(answer.tokens[max(low, answer.thoughts) : high], job.chat.top_logprobs or 0)


def ending(job: Job) -> bytes:
    """Finish reasons, usage if it was asked for, and the end mark."""
    nothing = wire.Delta(content="")
    last = [
        job.chunk(wire.ChunkChoice(index=index, delta=nothing, finish_reason=answer.finish_reason))
        for index, answer in enumerate(job.answers)
    ]
    if job.chat.include_usage:
        last.append(job.chunk(usage=job.usage))
    return b"".join([*last, wire.DONE])


def completion(job: Job) -> bytes:
    """The body of an answer that is not streamed."""
    choices = [
        wire.Choice(
            index=index,
            message=wire.ReplyMessage(
                reasoning_content=answer.reasoning(0, job.length) or UNSET, content=answer.text(0, job.length)
            ),
            logprobs=_logprobs(job, answer, 0, job.length),
            finish_reason=answer.finish_reason,
        )
        for index, answer in enumerate(job.answers)
    ]
    return wire.encode(
        wire.Completion(id=job.id, created=job.created, model=job.model, choices=choices, usage=job.usage)
    )
