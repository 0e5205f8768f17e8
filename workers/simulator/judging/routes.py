"""Answers `/classify` as vLLM does for a reward model, and `/generative_scoring` as it does for any model.

The numbers are made up: a text has the same one each time, whoever asks, and another model has others.
"""

from hashlib import blake2b
from math import exp
from typing import Any

from msgspec import Struct

from workers.simulator import wire
from workers.simulator.text import dice, prompt_ids

SPREAD = 2.0
"""Standard deviation of rewards, before the sigmoid."""


class ClassifyRequest(Struct, frozen=True, kw_only=True):
    """The chat form."""

    messages: list[wire.ChatMessage]
    model: str | None = None
    use_activation: bool = True


class ScoringRequest(Struct, frozen=True, kw_only=True):
    """With prompts in tokens."""

    items: list[list[int]]
    label_token_ids: list[int]
    query: list[int] = []
    model: str | None = None


def classify(asked: ClassifyRequest, model: str, seed: int, window: int) -> dict[str, Any]:
    """The reward of the last message's text. Raises `ApiError` for a prompt that the window does not hold."""
    pairs = [message.pair() for message in asked.messages]
    tokens = len(prompt_ids(pairs))
    if tokens > window:
        raise wire.too_long(window, tokens, 0)
    reward = dice(seed, model, pairs[-1][1] if pairs else "").gauss(0, SPREAD)
    told = 1 / (1 + exp(-reward)) if asked.use_activation else reward
    data = {"index": 0, "label": "LABEL_0", "probs": [told], "num_classes": 1}
    return _listed("classify", model, [data], tokens, 0)


def score(asked: ScoringRequest, model: str, seed: int, window: int) -> dict[str, Any]:
    """The chance of the first label. As vLLM, it cuts a prompt that is too long."""
    if not asked.label_token_ids:
        raise wire.bad_request("label_token_ids must contain at least one token ID.", "label_token_ids")
    if not asked.items:
        raise wire.bad_request("items must contain at least one item.", "items")
    data, tokens = [], 0
    for index, item in enumerate(asked.items):
        prompt = [*asked.query, *item][: window - 1]
        tokens += len(prompt)
        key = blake2b(",".join(map(str, prompt)).encode(), digest_size=12).hexdigest()
        odds = dice(seed, model, key).gauss(0, SPREAD)
        data.append({"index": index, "object": "score", "score": 1 / (1 + exp(-odds))})
    return _listed("generative-scoring", model, data, tokens, len(data))


def _listed(kind: str, model: str, data: list[dict[str, Any]], tokens: int, completion: int) -> dict[str, Any]:
    return {
        "id": f"{kind}-simulated",
        "object": "list",
        "created": 0,
        "model": model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens + completion, "completion_tokens": completion},
    }
