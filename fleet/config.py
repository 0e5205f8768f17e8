"""Reads the settings once, in the composition root, from a mapping (the environment) and an optional TOML file.

The same names stand in both; the environment wins. Only the file has tables: `[roles.NAME]`, `[endpoints.NAME]`,
`[models.NAME]`, `[judges.NAME]`, `[tenants.NAME]`, `[streams.NAME]`, `[limits]`, `[workers]`.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from fleet.errors import ConfigError
from fleet.limits.streams import DEFAULTS, StreamLimits, stream_limits
from fleet.limits.workers import Workers
from fleet.messages import Phase
from fleet.model_servers import EndpointConfig, Judges, ModelConfig, anywhere, problems, shown
from fleet.secret_files import SECRETS, content, file_of, with_files
from fleet.setting_values import READ, named
from fleet.tenants.limits import Tenant, TenantName
from fleet.undecodable import why_undecodable

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class PhaseProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What calls of one phase do otherwise than the role says."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Count | None = None


class RoleProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How agents of one role call the model. `model` absent: `VLLM_MODEL`, or what the server lists first.
    `judge_model`: for calls that judge (critique, score, vote, compare, choose); absent: `model`.
    `models`: in place of `model`, several with their shares; each agent of a council gets one, drawn by the seed.
    `shadow`: models on trial, each of a further agent beside the council, which is scored and changes no result.

    `rubric`: criterion -> weight, what proposals are scored against where the request has none.
    `context_window` in tokens, absent: what the server says of the model. `judge_persona`: for calls that judge.
    `phases`: sampling of single phases, such as `[roles.DEV.phases.score]`.
    """

    persona: Annotated[str, Meta(min_length=1)]
    judge_persona: Annotated[str, Meta(min_length=1)] = (
        "You judge what others wrote: strictly, fairly, by the rubric alone, and by what is there."
    )
    rubric: Annotated[dict[str, Annotated[float, Meta(gt=0, le=100)]], Meta(min_length=1, max_length=20)] | None = None
    model: str | None = None
    judge_model: str | None = None
    models: Annotated[dict[str, Positive], Meta(min_length=1, max_length=20)] | None = None
    shadow: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=4)] = ()
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    max_tokens: Count = 1024
    phases: dict[Phase, PhaseProfile] = {}
    context_window: Count | None = None

    @property
    def usual_model(self) -> str | None:
        """`model`, or that of `models` with the largest share: for calls of nobody in the council."""
        shares = self.models or {}
        return max(sorted(shares), key=lambda name: shares[name]) if shares else self.model

    @property
    def all_models(self) -> tuple[str, ...]:
        """Every model that calls of this role may name."""
        writing = tuple(self.models) if self.models else (self.model,)
        return tuple(name for name in dict.fromkeys((*writing, self.judge_model, *self.shadow)) if name is not None)


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the fleet holds, and for how long."""

    max_waiting_requests: Count = 100_000
    """Requests in the stream before publishers get an error from NATS (discard new)."""
    max_in_flight: Count = 1_000
    """Deliberations in progress at once, of all dispatchers together (about: several of them may begin a few too many).
    Further requests wait in the stream, where their deadlines do not run yet."""
    wait_for_models: bool = False
    """Requests wait in the stream, too, while some model that a role asks for has no server that answers: for servers
    that are started by the work. Else they are accepted, and their deadlines run meanwhile."""
    results_days: Positive = 7.0
    """How long results stay in the bucket and in the streams after the end."""
    progress_minutes: Positive = 10.0
    cache_hours: Positive = 24.0
    """How long a result answers equal requests that ask for it (`options.cache`); no longer than it stays."""
    cache_entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Results of each tenant that may do so, if the bucket `deliberation-cache` has room for so many."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """Replicas of every stream and of the bucket: 3 on a cluster."""


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Secrets are never logged: `public()` is what may be shown."""

    fleet_name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "fleet"
    """Its workers carry it: two fleets on one Ray need two names."""
    nats_url: str | None = None
    nats_user: str | None = None
    nats_password: str | None = None
    nats_token: str | None = None
    nats_creds: str | None = None
    nats_nkey_seed_file: str | None = None
    nats_ca: str | None = None
    nats_cert: str | None = None
    nats_key: str | None = None
    nats_tls_first: bool = False
    """TLS before the server's first word, as its `handshake_first: true` wants it."""
    ray_address: str | None = None
    agent_type: str = "mock"
    vllm_urls: tuple[str, ...] = ()
    vllm_model: str | None = None
    vllm_api_key: str | None = None
    health_port: int | None = None
    """Where dispatcher and collector serve `/healthz`, `/readyz` and `/metrics`; absent: nowhere."""
    health_host: str | None = None
    """Absent: all interfaces."""
    endpoints: dict[str, EndpointConfig] = {}
    models: dict[str, ModelConfig] = {}
    judges: Judges = {}
    roles: dict[str, RoleProfile] = {}
    limits: Limits = Limits()
    workers: Workers = Workers()
    agent_protocol: bool = False
    """Whether the council is an agent of Synadia's agent protocol, too."""
    secret_files: dict[str, str] = {}
    """Setting -> the file that it was read from, and is read from again for each connection."""
    tenants: dict[TenantName, Tenant] = {}
    streams: dict[str, StreamLimits] = msgspec.field(default_factory=lambda: dict(DEFAULTS))

    @property
    def nats(self) -> str:
        """Where NATS is, given or default."""
        return self.nats_url or DEFAULT_NATS_URL

    @property
    def model_servers(self) -> dict[str, EndpointConfig]:
        """By name: those of the file, then those of `VLLM_URL`, whose names are their URLs."""
        file = self.secret_files.get("VLLM_API_KEY")
        key = {"api_key_file": file} if file else {"api_key": self.vllm_api_key}
        short = {shown(url): EndpointConfig(url=url, kind="vllm", **key) for url in self.vllm_urls}
        return {**self.endpoints, **{name: server for name, server in short.items() if name not in self.endpoints}}


_NAMES = {
    "FLEET_NAME": "fleet_name",
    "FLEET_AGENT_PROTOCOL": "agent_protocol",
    "NATS_URL": "nats_url",
    "NATS_USER": "nats_user",
    "NATS_PASSWORD": "nats_password",
    "NATS_TOKEN": "nats_token",
    "NATS_CREDS": "nats_creds",
    "NATS_NKEY_SEED_FILE": "nats_nkey_seed_file",
    "NATS_CA": "nats_ca",
    "NATS_CERT": "nats_cert",
    "NATS_KEY": "nats_key",
    "NATS_TLS_FIRST": "nats_tls_first",
    "RAY_ADDRESS": "ray_address",
    "AGENT_TYPE": "agent_type",
    "VLLM_URL": "vllm_urls",
    "VLLM_MODEL": "vllm_model",
    "VLLM_API_KEY": "vllm_api_key",
    "FLEET_HEALTH_PORT": "health_port",
    "FLEET_HEALTH_HOST": "health_host",
}
_USERINFO = re.compile(r"^(\s*(?:https?://(?=[^/?#]*@)|(?!\s*https?:)(?:[a-z]+://)?)).*?@(?![^/?#]*@)", re.I | re.S)
_TABLES = {"roles", "limits", "workers", "endpoints", "models", "judges", "tenants", "streams"}
_PREFIXES = ("NATS_", "RAY_", "VLLM_", "FLEET_", "AGENT_")


def names_fleet(environ: Mapping[str, str]) -> bool:
    """Whether somebody has chosen FLEET_NAME, be it the default one."""
    path = environ.get("FLEET_CONFIG")
    return "fleet_name" in fields(read_file(Path(path)) if path else {}, environ)


def load(environ: Mapping[str, str]) -> Settings:
    """Reads `environ`, and the TOML file that `FLEET_CONFIG` names. Raises `ConfigError` that names the setting."""
    path = environ.get("FLEET_CONFIG")
    tables = read_file(Path(path)) if path else {}
    if unknown := tables.keys() - _NAMES.keys() - set(map(file_of, SECRETS)) - _TABLES:
        raise ConfigError(f"{path}: unknown setting {', '.join(sorted(unknown))}")
    values = fields(tables, environ)
    served = values.get("vllm_urls") or tables.get("endpoints")
    values.setdefault("agent_type", "vllm" if served else "mock")
    if values["agent_type"] not in ("vllm", "mock"):
        raise ConfigError(f"AGENT_TYPE: expected vllm or mock, got {values['agent_type']!r}")
    if values["agent_type"] == "vllm" and not served:
        raise ConfigError("VLLM_URL: must be set when AGENT_TYPE is vllm (or [endpoints.NAME] in the file)")
    values["roles"] = _roles(tables.get("roles", {}), path)
    values |= {name: tables[name] for name in _TABLES - {"roles", "streams"} if name in tables}
    if values["agent_type"] == "mock":
        # The simulator is the only model server then.
        values |= {"endpoints": {}, "models": {}, "judges": anywhere(values.get("judges", {}))}
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path or 'environment'}: {named(str(error), values, Settings)}") from None
    sizes = stream_limits(tables.get("streams", {}), environ, path, settings.tenants)
    settings = msgspec.structs.replace(settings, streams=sizes)
    wrong = problems(settings.endpoints, settings.models, settings.model_servers, settings.judges)
    if wrong := [*wrong, *settings.workers.problems()]:
        raise ConfigError(f"{path}: {'; '.join(wrong)}")
    return settings


def fields(
    tables: Mapping[str, Any], environ: Mapping[str, str], names: Collection[str] = _NAMES.keys()
) -> dict[str, Any]:
    """Field -> value, of these settings that the environment or else the file sets, themselves or by `…_FILE`."""
    set_: dict[str, Any] = {}
    for name in (*names, *map(file_of, SECRETS)):
        value = environ.get(name) or tables.get(name)
        # A line end comes with secrets that were made from files.
        if (value := value.strip() if isinstance(value, str) else value) not in (None, ""):
            set_[name] = value
    whole = with_files(set_)
    named = {_NAMES[name]: _parsed(_NAMES[name], whole[name]) for name in names if name in whole}
    if files := {name: str(set_[file_of(name)]) for name in SECRETS if file_of(name) in set_}:
        named["secret_files"] = files
    return named


def read_again(settings: Settings) -> Settings:
    """With what the files of its secrets say now. Raises `ConfigError`."""
    read = {_NAMES[name]: content(file_of(name), path) for name, path in settings.secret_files.items()}
    return msgspec.structs.replace(settings, **{field: _parsed(field, text) for field, text in read.items()})


def _parsed(field: str, value: Any) -> Any:
    return READ.get(field, lambda text: text)(value)


def without_userinfo(urls: str) -> str:
    """`nats://user:secret@host:4222` -> `nats://host:4222`, of one or several: for whatever is shown or handed on.

    Up to the last `@`: a password may hold what belongs to no URL. Of HTTP URLs, which have paths, only their host's.
    """
    each = re.split(r",(?=[^,]*://)", urls) if "://" in urls else urls.split(",")
    return ",".join(_USERINFO.sub(r"\1", url) for url in each)


def read_file(path: Path) -> dict[str, Any]:
    """What `FLEET_CONFIG` names. Raises `ConfigError`."""
    try:
        data = path.read_bytes()
        return tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise ConfigError(f"FLEET_CONFIG: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"FLEET_CONFIG: {path} is {why_undecodable(error, data)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"FLEET_CONFIG: {path} is no TOML: {error}") from None


def _roles(tables: Any, path: str | None) -> dict[str, Any]:
    """The shipped profiles, overlaid key by key with the file's; a role that is not shipped is added."""
    shipped = tomllib.loads(files("workers").joinpath("roles.toml").read_text())
    if not isinstance(tables, dict) or not all(isinstance(profile, dict) for profile in tables.values()):
        raise ConfigError(f"{path}: roles: expected a table [roles.NAME] for each role")
    for name in tables:
        if not (name.isascii() and name.replace("_", "").isalnum() and name == name.upper() and len(name) <= 32):
            raise ConfigError(f"{path}: roles.{name}: a role is named in capitals, digits and _, at most 32")
    return {name: {**shipped.get(name, {}), **tables.get(name, {})} for name in {**shipped, **tables}}


def unconfigured(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without anything that would configure a fleet, or the Ray below it."""
    return {name: value for name, value in environ.items() if not name.startswith(_PREFIXES)}
