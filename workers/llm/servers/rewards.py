"""Asks a judge for its number of one text: a reward model by `/classify`, any model by `/generative_scoring`.

Both are vLLM's (0.32.0), beside `/v1`, and take no stream. What they hide is dealt with here:

* `/classify` puts a reward model's number through a sigmoid unless `use_activation` is false: all good texts would have
  about 1. A model with more than one number (`num_labels`) is no reward model.
* `/generative_scoring` knows no chat template, and cuts a prompt that is too long at its end, where the question is,
  without a word. So `/tokenize` puts the messages through the template, and says how long they are.
* It takes labels as tokens: of Yes and No the first one, as the model would begin to write them. The number is the
  log-odds of their probabilities, since probabilities crowd at 0 and 1.
"""

import sys
from math import log
from typing import Any, NamedTuple, TypeGuard, assert_never

from workers.llm.failures import AttemptError, shorten
from workers.llm.http import Http
from workers.llm.reading.token_counts import TokenCounts, counts_of
from workers.llm.requests import ModelRequest
from workers.llm.servers.dialects import with_extra
from workers.llm.servers.endpoint import Endpoint

YES, NO = "Yes", "No"
SUREST = 1e-6
"""No probability is taken for closer to 0 or 1: beyond that single precision has nothing to say."""


class Told(NamedTuple):
    """A number as a text, and what it took."""

    text: str
    counts: TokenCounts | None
    model: str | None


class Rewards:
    """Of one process. It remembers how models write Yes and No."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._labels: dict[tuple[str, str], tuple[int, int]] = {}

    async def ask(self, endpoint: Endpoint, model: str, request: ModelRequest, headers: dict[str, str]) -> Told:
        """Raises `AttemptError`."""
        match request.judge:
            case "classify":
                return await self._classify(endpoint, model, request, headers)
            case "generative_scoring":
                return await self._score(endpoint, model, request, headers)
            case None:
                raise ValueError("the request is for no judge")
            case _:
                assert_never(request.judge)

    async def _classify(self, endpoint: Endpoint, model: str, request: ModelRequest, headers: dict[str, str]) -> Told:
        body = {"model": model, "messages": request.messages, "use_activation": False}
        told = await self._http.beside(endpoint, "/classify", with_extra(body, endpoint.config.request), headers)
        numbers = _first(told, "/classify").get("probs")
        if not isinstance(numbers, list) or not all(map(_is_number, numbers)):
            raise _no_reward("/classify", told)
        if len(numbers) != 1:
            text = f"/classify: {len(numbers)} numbers for a text; a reward model has one (num_labels 1)"
            raise AttemptError("InvalidAnswer", text, fault="request")
        return _told(float(numbers[0]), told)

    async def _score(self, endpoint: Endpoint, model: str, request: ModelRequest, headers: dict[str, str]) -> Told:
        yes_no = await self._labels_of(endpoint, model)
        asked = {"model": model, "messages": request.messages, "add_generation_prompt": True}
        template = {name: value for name, value in endpoint.config.request.items() if name == "chat_template_kwargs"}
        tokens, window = await self._tokens(endpoint, with_extra(asked, template))
        if window is not None and len(tokens) >= window:
            text = f"the prompt has {len(tokens)} tokens, and the window of {model} is {window}"
            raise AttemptError("ContextOverflow", text, fault="request")
        body = {"model": model, "query": [], "items": [tokens], "label_token_ids": yes_no}
        told = await self._http.beside(endpoint, "/generative_scoring", body, headers)
        probability = _first(told, "/generative_scoring").get("score")
        if not _is_number(probability) or not 0 <= probability <= 1:
            raise _no_reward("/generative_scoring", told)
        held = min(1 - SUREST, max(SUREST, probability))
        return _told(round(log(held / (1 - held)), 6), told)

    async def _labels_of(self, endpoint: Endpoint, model: str) -> tuple[int, int]:
        key = endpoint.name, model
        if key not in self._labels:
            first = []
            for word in (YES, NO):
                body = {"model": model, "prompt": word, "add_special_tokens": False}
                tokens, _ = await self._tokens(endpoint, body)
                first.append(tokens[0])
            if first[0] == first[1]:
                text = f"{model} begins {YES} and {NO} with the same token"
                raise AttemptError("InvalidAnswer", text, fault="request")
            self._labels[key] = first[0], first[1]
        return self._labels[key]

    async def _tokens(self, endpoint: Endpoint, body: dict[str, Any]) -> tuple[list[int], int | None]:
        """Tokens, and the model's window."""
        told = await self._http.beside(endpoint, "/tokenize", body, {})
        tokens = told.get("tokens") if isinstance(told, dict) else None
        if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) for token in tokens):
            raise _no_reward("/tokenize", told)
        window = told.get("max_model_len")
        return tokens, window if isinstance(window, int) else None


def _first(told: Any, path: str) -> dict[str, Any]:
    data = told.get("data") if isinstance(told, dict) else None
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], dict):
        raise _no_reward(path, told)
    return data[0]


def _told(value: float, told: dict[str, Any]) -> Told:
    model = told.get("model")
    return Told(repr(value), counts_of(told.get("usage")), model if isinstance(model, str) else None)


def _no_reward(path: str, told: Any) -> AttemptError:
    return AttemptError("MalformedResponse", f"{path}: no number but {shorten(str(told))}", fault="server")


def _is_number(value: Any) -> TypeGuard[float]:
    # JSON has integers that no float holds.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
