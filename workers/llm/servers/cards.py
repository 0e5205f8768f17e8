"""Reads the list of models that a server gives, in all its forms. An entry that cannot be read is left out."""

import re
from typing import Any

from workers.llm.servers.endpoint import ModelCard

LONGEST_NAME = 256
"""As in requests. What is longer names no model, and would be repeated in every result."""
_LISTS = ("data", "models", "items", "result")
_NAMES = ("id", "name", "model")
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx", "max_input_tokens")
_KINDS = ("type", "task", "mode")
_OTHER_MODELS = re.compile(
    r"embed|rerank|whisper|\btts\b|text-to-speech|moderation|dall-?e|transcri|speech-to-text", re.IGNORECASE
)
"""In the name or the kind of models that are for something else than chat."""
_WITHIN = ("meta", "model_info", "top_provider", "capabilities", "limits")


def cards_in(value: Any) -> tuple[ModelCard, ...]:
    """From `{"data": […]}`, a bare list, or the like. Nothing readable is an empty list. Models that do not chat come
    last: where none is named, the first is asked.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in _LISTS if isinstance(value.get(key), list | dict)), [])
    if isinstance(value, dict):  # by name; or the list is one step further in
        by_name = [{**entry, "id": name} for name, entry in value.items() if isinstance(entry, dict)]
        value = by_name or next((value[key] for key in _LISTS if isinstance(value.get(key), list)), [])
    if not isinstance(value, list):
        return ()
    entries = sorted(value, key=_does_not_chat)
    return tuple(card for card in map(_card, entries) if card is not None)


def is_empty_list(value: Any) -> bool:
    """Whether it says that there are no models, rather than something that nobody can read."""
    if isinstance(value, dict):
        return any(key in value and not value[key] for key in _LISTS)
    return isinstance(value, list) and not value


def _does_not_chat(entry: Any) -> bool:
    told = [entry.get(key) for key in (*_NAMES, *_KINDS)] if isinstance(entry, dict) else [entry]
    return any(_OTHER_MODELS.search(str(each)) for each in told if each is not None)


def _card(entry: Any) -> ModelCard | None:
    if isinstance(entry, str):
        return ModelCard(entry) if 0 < len(entry) <= LONGEST_NAME else None
    if not isinstance(entry, dict):
        return None
    name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str) and entry[key]), None)
    if name is None or len(name) > LONGEST_NAME:
        return None
    parent = entry.get("parent")
    return ModelCard(name, _window(entry), parent if isinstance(parent, str) and parent != name else None)


def _window(entry: dict[str, Any]) -> int | None:
    for holder in (entry, *(entry[key] for key in _WITHIN if isinstance(entry.get(key), dict))):
        for key in _WINDOWS:
            if isinstance(holder.get(key), bool):
                continue
            try:
                tokens = int(float(holder[key]))
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
            if tokens > 0:
                return tokens
    return None
