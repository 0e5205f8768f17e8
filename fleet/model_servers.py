"""Defines model servers and models as the settings name them: `[endpoints.NAME]` and `[models.NAME]`."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from msgspec import Meta, Struct

JudgeKind = Literal["classify", "generative_scoring"]
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
    """Anybody on Ray can read them: what is secret comes from `headers_env` and `headers_file`."""
    headers_env: dict[str, str] = {}
    headers_file: dict[str, str] = {}
    """Header -> the variable of the worker's environment, or the file, that holds its value."""
    ends_without_reason: bool = False
    """Texts end with `[DONE]` and no `finish_reason`: then that is a whole text, on this server only."""
    priority: bool = False
    """The server takes priorities (vLLM, SGLang: `--scheduling-policy priority` or its like): later phases first."""
    api_key: str | None = None
    """Not in the file: the key of the short form."""

    def key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The key, from where the settings say it is. Raises ValueError where it is not there."""
        if self.api_key_env is not None:
            if not (key := environ.get(self.api_key_env, "").strip()):
                raise ValueError(f"the variable {self.api_key_env} is not set")
            return key
        if self.api_key_file is not None:
            return _content(self.api_key_file)
        return self.api_key

    def secret_headers(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Those of `headers_env` and `headers_file`. Raises ValueError where one is not there."""
        built = {}
        for header, name in self.headers_env.items():
            if not (value := environ.get(name, "").strip()):
                raise ValueError(f"the variable {name} of the header {header} is not set")
            built[header] = value
        for header, path in self.headers_file.items():
            built[header] = _content(path)
        return built


def _content(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8") from None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name for roles and requests, over what servers call it. `name` absent: the table's own."""

    name: Annotated[str, Meta(min_length=1)] | None = None
    endpoints: Names | None = None
    fallbacks: tuple[str, ...] = ()
    base: Annotated[str, Meta(min_length=1)] | None = None
    adapter: Annotated[str, Meta(min_length=1)] | None = None
    """Where the server finds it (a path there, or a repository): it is loaded where it is not, if that is allowed."""
    context_window: Count | None = None


class JudgeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[judges.NAME]`: one more reviewer of every council that is scored, which proposes nothing. `kind`: the route of
    its server that tells a number for a text. `endpoint` absent: all that have the model.
    """

    kind: JudgeKind
    endpoint: Annotated[str, Meta(min_length=1)] | None = None
    model: Annotated[str, Meta(min_length=1)] | None = None
    # A state holds it as JSON, which has no infinity.
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """How long a call may take, all its attempts: a judge that is away holds up no council for longer."""


Judges = dict[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], JudgeConfig]


def only_for_judges(judges: Mapping[str, JudgeConfig]) -> frozenset[str]:
    """Endpoints of reward models: these write nothing, so no other call goes there."""
    return frozenset(judge.endpoint for judge in judges.values() if judge.kind == "classify" and judge.endpoint)


def seats_of(
    servers: Mapping[str, EndpointConfig], judges: Mapping[str, JudgeConfig], models: Mapping[str, ModelConfig]
) -> int | None:
    """How many calls all servers together take at once; None where one takes any number, or where a call may have to
    wait for one while another has room. So does a judge's where a server is named, or a model's.
    """
    limits = [server.max_concurrency for server in servers.values() if server.max_concurrency is not None]
    if not limits or len(limits) < len(servers):
        return None
    first, *others = servers.values()
    alike = all(first.models and server.models == first.models for server in others)
    named = [{judge.endpoint} for judge in judges.values() if judge.endpoint]
    named += [{*model.endpoints} for model in models.values() if model.endpoints is not None]
    return sum(limits) if alike and all(servers.keys() <= names for names in named) else None


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


def beside_v1(base: str, path: str) -> str:
    """`path` where vLLM has what is none of OpenAI's: in place of the `/v1` of `base`."""
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=parts.path.removesuffix("/v1") + path))


def shown(url: str) -> str:
    """Without credentials."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def anywhere(judges: Any) -> Any:
    """The tables `[judges.NAME]`, as they stand, without where their models are."""
    if not isinstance(judges, Mapping):
        return judges
    return {
        name: {key: value for key, value in table.items() if key not in ("endpoint", "model")}
        if isinstance(table, Mapping)
        else table
        for name, table in judges.items()
    }


def _problems_of_judges(servers: Mapping[str, EndpointConfig], judges: Mapping[str, JudgeConfig]) -> list[str]:
    wrong = []
    for name, judge in judges.items():
        if judge.endpoint is not None and judge.endpoint not in servers:
            wrong.append(f"judges.{name}.endpoint: no [endpoints.{judge.endpoint}]")
        elif judge.endpoint is not None and (kind := servers[judge.endpoint].kind) != "vllm":
            wrong.append(f"judges.{name}.endpoint: vLLM has /{judge.kind}, and {judge.endpoint} is of kind {kind}")
    taken = only_for_judges(judges)
    if taken and servers.keys() <= taken:
        name = next(name for name, judge in judges.items() if judge.endpoint in taken)
        wrong.append(f"judges.{name}.endpoint: a reward model writes nothing, and no other endpoint is left")
    return wrong


def problems(
    endpoints: Mapping[str, EndpointConfig],
    models: Mapping[str, ModelConfig],
    servers: Mapping[str, EndpointConfig],
    judges: Mapping[str, JudgeConfig],
) -> list[str]:
    """What the types cannot say, each naming its setting. `servers`: `endpoints`, and those of the short form."""
    wrong = _problems_of_judges(servers, judges)
    for name, endpoint in endpoints.items():
        try:
            base_url(endpoint.url)
        except ValueError as error:
            wrong.append(f"endpoints.{name}.url: {error}")
        if endpoint.api_key_env and endpoint.api_key_file:
            wrong.append(f"endpoints.{name}: api_key_env or api_key_file, not both")
        if endpoint.api_key is not None:
            wrong.append(f"endpoints.{name}.api_key: the key must not be in the file: use api_key_env or api_key_file")
        wrong += (f"endpoints.{name}.{problem}" for problem in _secrets_in(endpoint))
        if set(endpoint.request) & {"messages", "stream", "model"}:
            wrong.append(f"endpoints.{name}.request: messages, stream and model are the fleet's own")
    for name, model in models.items():
        if model.adapter is not None and model.base is None:
            wrong.append(f"models.{name}.adapter: say which model it is for, by `base`")
        for each in model.endpoints or ():
            if each not in endpoints:
                wrong.append(f"models.{name}.endpoints: no [endpoints.{each}]")
        for each in model.fallbacks:
            if each == name:
                wrong.append(f"models.{name}.fallbacks: a model cannot be a fallback of itself")
    return wrong


def _secrets_in(endpoint: EndpointConfig) -> Iterator[str]:
    """What would be handed to every worker as it is, and be readable to whoever reaches Ray."""
    parts = urlsplit(endpoint.url)
    if "@" in parts.netloc:
        yield "url: user and password must not be in the file: use headers_env or headers_file, for Authorization"
    for name, value in parse_qsl(parts.query):
        if _is_secret(name, value):
            yield f"url: {name} must not be in the file: use api_key_env or headers_env"
    for name, value in endpoint.headers.items():
        if _is_secret(name, value):
            yield f"headers.{name}: a secret must not be in the file: use headers_env or headers_file"
    for name in {*endpoint.headers_env, *endpoint.headers_file}:
        if (name in endpoint.headers_env) + (name in endpoint.headers_file) + (name in endpoint.headers) > 1:
            yield f"headers.{name}: headers, headers_env or headers_file, only one of them"
    for path, leaf in _leaves(endpoint.request, "request"):
        if _is_secret(path.rpartition(".")[2], leaf, _SECRET_FIELDS):
            yield f"{path}: a secret must not be in the file: use api_key_env or headers_env"


_SECRET_WORDS = re.compile(
    r"(?:^|[-_.])(?:auth|authorization|cookie|key|api[-_]?key|token|secret|passw(?:or)?d|credentials?|sig|signature|jwt|"
    r"bearer|session)(?:$|[-_.])",
    re.IGNORECASE,
)
"""In names of headers and of parameters in URLs."""
_SECRET_FIELDS = re.compile(
    r"(?:^|_)(?:authorization|api_?key|(?:access|auth|bearer|refresh|session|id)_?token|secret(?:_?key)?|passw(?:or)?d|"
    r"credentials?)$|^token$",
    re.IGNORECASE,
)
"""In names of fields of a request, many of which count tokens."""
_SECRET_VALUES = re.compile(r"\s*(?:bearer|basic)\s+\S|sk-[\w-]{16,}|eyJ[\w-]+\.[\w-]+\.", re.IGNORECASE)


def _is_secret(name: str, value: object, words: re.Pattern[str] = _SECRET_WORDS) -> bool:
    return bool(words.search(name)) or (isinstance(value, str) and bool(_SECRET_VALUES.match(value)))


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value
