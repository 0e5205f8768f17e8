"""Model servers and models as the settings name them: `[endpoints.NAME]` and `[models.NAME]`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit, urlunsplit

from msgspec import Meta, Struct

Kind = Literal["vllm", "sglang", "llamacpp", "ollama", "openai", "azure", "anthropic", "litellm", "other"]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Names = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]

_WHOLE_PATHS = ("/chat/completions", "/messages", "/completions", "/models")


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per million tokens, in whatever currency; `cached` absent: as `input`."""

    input: NotNegative = 0.0
    cached: NotNegative | None = None
    output: NotNegative = 0.0


class EndpointConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model server: `workers/README.md` says what each setting does."""

    url: Annotated[str, Meta(min_length=1)]
    kind: Kind = "vllm"
    models: Names | None = None
    api_key_env: Annotated[str, Meta(min_length=1)] | None = None
    api_key_file: Annotated[str, Meta(min_length=1)] | None = None
    ca: Annotated[str, Meta(min_length=1)] | None = None
    max_concurrency: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    first_token_timeout_s: Positive | None = None
    stall_timeout_s: Positive | None = None
    price: Price | None = None
    request: dict[str, Any] = {}
    headers: dict[str, str] = {}
    ends_without_reason: bool = False
    """Texts end with `[DONE]` and no `finish_reason`: then that is a whole text, on this server only."""
    priority: bool = False
    """The server takes priorities (vLLM, SGLang: `--scheduling-policy priority` or its like): later phases first."""
    api_key: str | None = None
    """Not in the file: the key of the short form."""

    def key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The key, from where the settings say it is. Raises ValueError where it is not there."""
        if self.api_key_env is not None:
            if not (found := environ.get(self.api_key_env, "").strip()):
                raise ValueError(f"the variable {self.api_key_env} is not set")
            return found
        if self.api_key_file is not None:
            try:
                return Path(self.api_key_file).read_text().strip()
            except OSError as error:
                raise ValueError(f"cannot read {self.api_key_file}: {error.strerror}") from None
        return self.api_key


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name for roles and requests, over what servers call it. `name` absent: the table's own."""

    name: Annotated[str, Meta(min_length=1)] | None = None
    endpoints: Names | None = None
    fallbacks: tuple[str, ...] = ()
    base: Annotated[str, Meta(min_length=1)] | None = None
    context_window: Count | None = None


def base_url(url: str) -> str:
    """What paths are put behind: the path that was given, or `/v1` for a bare host; the query stays.

    Raises ValueError for what is no http(s) URL.
    """
    url = url.strip()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(not char.isprintable() for char in url):
        raise ValueError(f"{url!r} is no http(s) URL")
    path = parts.path.rstrip("/")
    for whole in _WHOLE_PATHS:
        if path.endswith(whole):
            path = path.removesuffix(whole)
            break
    return urlunsplit(SplitResult(parts.scheme, parts.netloc, path or "/v1", parts.query, ""))


def joined(base: str, path: str) -> str:
    """`path` behind the path of `base`, in front of its query."""
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path))


def shown(url: str) -> str:
    """Without credentials."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def problems(endpoints: Mapping[str, EndpointConfig], models: Mapping[str, ModelConfig]) -> list[str]:
    """What the types cannot say, each naming its setting."""
    found = []
    for name, endpoint in endpoints.items():
        try:
            base_url(endpoint.url)
        except ValueError as error:
            found.append(f"endpoints.{name}.url: {error}")
        if endpoint.api_key_env and endpoint.api_key_file:
            found.append(f"endpoints.{name}: api_key_env or api_key_file, not both")
        if endpoint.api_key is not None:
            found.append(f"endpoints.{name}.api_key: the key never stands in the file: api_key_env or api_key_file")
        if set(endpoint.request) & {"messages", "stream", "model"}:
            found.append(f"endpoints.{name}.request: messages, stream and model are the fleet's own")
    for name, model in models.items():
        for each in model.endpoints or ():
            if each not in endpoints:
                found.append(f"models.{name}.endpoints: no [endpoints.{each}]")
        for each in model.fallbacks:
            if each == name:
                found.append(f"models.{name}.fallbacks: a model cannot stand in for itself")
    return found
