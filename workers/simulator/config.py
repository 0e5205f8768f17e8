"""Defines the simulated server's settings, at its start and while it runs."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from workers.simulator.faults import Faults

_Positive = Annotated[int, Meta(ge=1)]
_NotNegative = Annotated[float, Meta(ge=0)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class SimulatorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings with their defaults; `models` names several models and takes precedence over `model`."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    model: str = "simulated"
    models: tuple[str, ...] = ()
    max_model_len: _Positive = 32_768
    seed: int = 0
    latency_ms: _NotNegative = 0.0
    tokens_per_second: _NotNegative = 0.0
    answer_tokens: _Positive = 60
    reasoning_tokens: Annotated[int, Meta(ge=0)] = 0
    declines: _Share = 0.0
    injection_rate: _Share = 0.0
    obedience: _Share = 0.0
    max_num_seqs: _Positive = 256
    max_num_queued: Annotated[int, Meta(ge=0)] | None = None
    api_key: str | None = None
    faults: Faults = Faults()
    prefix_cache_blocks: _Positive = 65_536
    recorded_calls: _Positive = 1_000

    @property
    def served_models(self) -> tuple[str, ...]:
        return self.models or (self.model,)


EXPLAINED = {
    "host": "address to listen on",
    "port": "port to listen on; 0: a free one",
    "model": "name of the model that is served",
    "max_model_len": "tokens of a prompt and its answer together",
    "seed": "another one makes other texts, and draws other faults",
    "latency_ms": "pause from getting a seat to the first token",
    "tokens_per_second": "pace of each answer; 0: as fast as it goes",
    "answer_tokens": "typical length of a text; each differs by up to two fifths",
    "reasoning_tokens": "thoughts sent before every answer, apart from it",
    "declines": "share of the texts whose prompt offers to decline",
    "injection_rate": "share of the other texts that carry an instruction to whoever scores them",
    "obedience": "share of the injections in labelled proposals that are followed, with the highest scores",
    "max_num_seqs": "requests that run at once (one with n > 1 counts once); further ones wait",
    "max_num_queued": "requests that may wait; further ones get 503",
    "api_key": "what requests must carry",
    "prefix_cache_blocks": "size of the prompt cache",
    "recorded_calls": "chat requests that are kept to be looked at",
}
"""Setting -> what its help says."""


class ConfigChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may change while the server runs. What is absent stays; `faults` replaces all faults together."""

    latency_ms: _NotNegative | UnsetType = UNSET
    tokens_per_second: _NotNegative | UnsetType = UNSET
    answer_tokens: _Positive | UnsetType = UNSET
    max_num_seqs: _Positive | UnsetType = UNSET
    faults: Faults | UnsetType = UNSET

    def apply(self, config: SimulatorConfig) -> SimulatorConfig:
        changes = {name: value for name, value in structs.asdict(self).items() if value is not UNSET}
        return structs.replace(config, **changes)
