"""The key of equal requests: what it takes in, and what it leaves out."""

from typing import Any

import pytest
from msgspec import structs

from fleet.config import PhaseProfile, Settings, load
from fleet.control.caching import keys
from fleet.control.caching.keys import CacheKeys
from fleet.control.caching.slots import ENTRY_BYTES, slots_each
from fleet.deliberation.rating.judging import CHOOSER_ROLE
from fleet.model_servers import EndpointConfig, JudgeConfig, ModelConfig
from fleet.requests.task import Task
from fleet.tenants.limits import Tenant

SETTINGS = structs.replace(
    load({}), endpoints={"gpu": EndpointConfig(url="http://gpu:8000")}, models={"fast": ModelConfig(name="small")}
)
TASK = Task(task_description="Design it", rubric={"a": 1.0, "b": 2.0})


def key(settings: Settings = SETTINGS, tenant: str = "default", **changes: Any) -> str:
    return CacheKeys(settings).of(tenant, TASK.change(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"timeout_seconds": 7.0},
        {"priority": "high"},
        {"correlation": {"story": "7"}},
        {"cache": "use"},
        {"cache": "refresh"},
        {"rubric": {"b": 2.0, "a": 1.0}},
    ],
)
def test_what_changes_no_work_is_left_out(changes: dict[str, Any]) -> None:
    assert key(**changes) == key()


LEFT_OUT = {"timeout_seconds", "priority", "correlation", "cache"}
OTHERS: dict[str, Any] = {
    "task_description": "Design that",
    "role": "QA",
    "num_agents": 5,
    "rounds": 2,
    "rubric": "short",
    "descriptions": {"a": "what it means"},
    "requirements": ("short",),
    "metadata": {"x": 1},
    "policy": TASK.policy.change(required=("x",)),
    "architect_rubric": "short",
    "reference": "It is 7.",
    "early_stop": False,
    "seed": 7,
    "roles": ("DEV", "QA"),
    "models": ("big",),
    "selection": "vote",
    "top_k": 2,
    "tie_margin": 0.5,
    "synthesis": True,
    "output_schema": {"type": "object"},
    "max_total_tokens": 7,
    "accept_truncated": True,
    "diversity": True,
    "gate": True,
    "judges_per_proposal": 2,
    "second_reading": True,
    "rationales": False,
}


@pytest.mark.parametrize("field", [field for field in Task.__struct_fields__ if field not in LEFT_OUT])
def test_every_other_field_makes_another_key(field: str) -> None:
    """A new one must be added here, or to what is left out."""
    assert key(**{field: OTHERS[field]}) != key()


def test_a_tenant_has_keys_of_its_own() -> None:
    assert len({key(), key(tenant="team-a"), key(tenant="team-b")}) == 3


ROLE = SETTINGS.roles["DEV"]


@pytest.mark.parametrize(
    "changes",
    [
        {"persona": "You are new."},
        {"judge_persona": "You judge."},
        {"model": "other"},
        {"judge_model": "other"},
        {"models": {"a": 1.0}},
        {"shadow": ("candidate",)},
        {"rubric": {"speed": 1.0}},
        {"temperature": 0.1},
        {"max_tokens": 7},
        {"context_window": 4096},
        {"phases": {"score": PhaseProfile(temperature=0.0)}},
    ],
)
def test_a_change_of_its_role_makes_another_key(changes: dict[str, Any]) -> None:
    """And one of another role does not, unless that is asked to choose."""
    profile = structs.replace(ROLE, **changes)
    assert key(structs.replace(SETTINGS, roles={**SETTINGS.roles, "DEV": profile})) != key()
    assert key(structs.replace(SETTINGS, roles={**SETTINGS.roles, "QA": profile})) == key()
    chosen = structs.replace(SETTINGS, roles={**SETTINGS.roles, CHOOSER_ROLE: profile})
    assert key(chosen) == key()
    assert key(chosen, selection="architect") != key(selection="architect")


@pytest.mark.parametrize(
    "changes",
    [
        {"vllm_model": "other"},
        {"models": {"fast": ModelConfig(name="smaller")}},
        {"endpoints": {"gpu": EndpointConfig(url="http://other:8000")}},
        {"endpoints": {"gpu": EndpointConfig(url="http://gpu:8000", request={"temperature": False})}},
        {"endpoints": {}},
    ],
)
def test_a_change_of_models_makes_another_key(changes: dict[str, Any]) -> None:
    assert key(structs.replace(SETTINGS, **changes)) != key()


def test_keys_and_limits_of_a_server_change_nothing() -> None:
    """A secret is nothing that a key should be made of."""
    other = EndpointConfig(url="http://gpu:8000", api_key_env="KEY", max_concurrency=7, stall_timeout_s=7)
    assert key(structs.replace(SETTINGS, endpoints={"gpu": other})) == key()


def test_a_change_of_the_code_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are code."""
    before = key()
    monkeypatch.setattr(keys, "code_digest", lambda: "of another version")
    assert key() != before


def test_the_code_of_prompts_and_checks_is_taken_in() -> None:
    names = {
        name for package in keys.CODE for name, source in keys._sources(keys.files(package), package) if source.strip()
    }
    assert {"fleet.deliberation/prompts.py", "workers/llm/requests.py"} <= names
    assert any(name.startswith("workers/checks/") for name in names)


@pytest.mark.parametrize(("tenants", "mib"), [(0, 16), (1, 16), (9, 1)])
def test_the_slots_of_all_tenants_fit_the_bucket(tenants: int, mib: int) -> None:
    """Whatever the settings say: the oldest entries never have to go."""
    names = {f"team-{number}": Tenant() for number in range(tenants)}
    settings = load({"FLEET_STREAM_KV_DELIBERATION_CACHE_MAX_BYTES": f"{mib}MiB"})
    settings = structs.replace(settings, tenants=names)
    assert 0 < slots_each(settings) <= settings.limits.cache_entries
    assert slots_each(settings) * (tenants + 1) * ENTRY_BYTES <= mib * 1024**2


def test_another_judge_makes_another_key() -> None:
    """It may move every ranking."""
    judged = structs.replace(SETTINGS, judges={"reward": JudgeConfig(kind="classify")})
    other = structs.replace(SETTINGS, judges={"reward": JudgeConfig(kind="classify", model="rm")})
    assert len({key(), key(judged), key(other)}) == 3
