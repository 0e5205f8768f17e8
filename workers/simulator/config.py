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
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0  # 0: a free one
    model: str = "simulated"
    models: tuple[str, ...] = ()
    max_model_len: _Positive = 32_768
    seed: int = 0
    latency_ms: _NotNegative = 0.0  # from getting a seat to the first token
    tokens_per_second: _NotNegative = 0.0  # of each request; 0: as fast as it goes
    answer_tokens: _Positive = 60  # typical length of a text; each differs by up to 40 %
    reasoning_tokens: Annotated[int, Meta(ge=0)] = 0  # sent before every answer, apart from it
    declines: _Share = 0.0  # of the texts whose prompt offers to decline
    injection_rate: _Share = 0.0  # of the other texts: carry an instruction to whoever scores them
    obedience: _Share = 0.0  # of the injections shown in a labelled proposal: followed, with the highest scores
    max_num_seqs: _Positive = 256  # requests that run at once (one with n > 1 counts once); further ones wait
    max_num_queued: Annotated[int, Meta(ge=0)] | None = None  # requests that may wait; further ones get 503
    api_key: str | None = None
    faults: Faults = Faults()
    prefix_cache_blocks: _Positive = 65_536
    recorded_calls: _Positive = 1_000

    @property
    def served_models(self) -> tuple[str, ...]:
        return self.models or (self.model,)


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
