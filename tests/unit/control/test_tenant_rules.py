"""Each model that a request may come to, whoever names it, is one that its tenant may use: else it is refused."""

from typing import Any

import pytest

from fleet.config import RoleProfile, Settings
from fleet.control.tenant_rules import forbidden_model, models_of
from fleet.requests.task import Task
from fleet.tenants.limits import Tenant


def role(**models: Any) -> RoleProfile:
    return RoleProfile(persona="You are.", **models)


SETTINGS = Settings(
    vllm_model="usual",
    roles={
        "DEV": role(model="fast"),
        "QA": role(models={"fast": 9, "candidate": 1}),
        "DATA": role(judge_model="fast"),
        "DEVOPS": role(model="fast", shadow=("candidate",)),
        "ARCHITECT": role(model="fast", judge_model="big"),
    },
)


@pytest.mark.parametrize(
    ("asked", "forbidden"),
    [
        ({}, None),
        ({"roles": ("DEV", "ARCHITECT")}, ("$.role", "big")),
        ({"role": "QA"}, ("$.role", "candidate")),
        ({"role": "QA", "models": ("fast",)}, None),
        ({"models": ("fast", "big")}, ("$.options.models", "big")),
        ({"role": "DATA"}, ("$.role", "usual")),
        ({"role": "DEVOPS"}, ("$.role", "candidate")),
        ({"role": "DEVOPS", "models": ("fast",)}, ("$.role", "candidate")),
        ({"selection": "architect"}, ("$.options.selection", "big")),
        ({"selection": "architect", "models": ("fast",)}, ("$.options.selection", "big")),
    ],
)
def test_each_model_that_a_request_comes_to_is_looked_at(
    asked: dict[str, Any], forbidden: tuple[str, str] | None
) -> None:
    """Those of shadows and of the architect, too, and the model of a role that names one for judging alone."""
    task = Task(**{"task_description": "Design it", "role": "DEV", "num_agents": 2, "rounds": 0} | asked)
    assert forbidden_model(Tenant(models=("fast",)), models_of(task, SETTINGS)) == forbidden
    assert forbidden_model(Tenant(), models_of(task, SETTINGS)) is None
