"""Readiness by the model servers, as workers tell of them."""

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from fleet import subjects
from fleet.config import RoleProfile, Settings
from fleet.control.models import Models
from fleet.messages import encode
from fleet.messages.workers import BreakerState, EndpointStatus, WorkerStatus
from fleet.model_servers import EndpointConfig, ModelConfig

SETTINGS = Settings(
    endpoints={"one": EndpointConfig(url="http://one"), "two": EndpointConfig(url="http://two", models=("big",))},
    models={"fast": ModelConfig(endpoints=("one",)), "sure": ModelConfig(endpoints=("one",), fallbacks=("big",))},
)


def told(settings: Settings, *workers: dict[str, Any]) -> Models:
    """After each worker has said of each server whether it answers, or how its breaker is."""
    models = Models(settings)
    for number, seen in enumerate(workers):
        status = WorkerStatus(
            name=f"w-{number}",
            started_at="2026-01-01T00:00:00.000Z",
            told_at="2026-01-01T00:00:00.000Z",
            open_calls=0,
            done=0,
            failed=0,
            last_fetch_age_s=0.0,
            endpoints=tuple(endpoint(name, how) for name, how in seen.items()),
        )
        subject = subjects.status_of(status.name)
        asyncio.run(models.hear(Msg(None, subject, "", encode(status))))  # type: ignore[arg-type]
    return models


def endpoint(name: str, how: bool | BreakerState | None) -> EndpointStatus:
    breaker: BreakerState = how if isinstance(how, str) else "closed"
    answers = how if isinstance(how, bool) else None
    return EndpointStatus(name=name, url=name, breaker=breaker, opened=0, open_calls=0, answers=answers)


def roles(*models: str | None) -> Settings:
    made = {f"R{number}": RoleProfile(persona="x", model=model) for number, model in enumerate(models)}
    return Settings(endpoints=SETTINGS.endpoints, models=SETTINGS.models, roles=made)


@pytest.mark.parametrize(
    ("models", "workers", "missing"),
    [
        ((None,), [], ""),
        ((None,), [{"one": None, "two": None}], ""),
        ((None,), [{"one": False, "two": True}], ""),
        ((None,), [{"one": False, "two": False}], "any model: one, two"),
        ((None,), [{"one": "open", "two": False}], "any model: one, two"),
        ((None,), [{"one": False, "two": False}, {"one": True, "two": False}], ""),
        (("fast",), [{"one": False, "two": True}], "fast: one"),
        (("fast", "big"), [{"one": False, "two": True}], "fast: one"),
        (("sure",), [{"one": False, "two": True}], ""),
        (("sure",), [{"one": False, "two": False}], "sure: one, two"),
        (("big",), [{"one": True, "two": False}], ""),
    ],
)
def test_a_model_is_missing_where_no_server_of_it_answers_any_worker(
    models: tuple[str | None, ...], workers: list[dict[str, Any]], missing: str
) -> None:
    """Its fallbacks count; a server that nobody has asked yet may answer."""
    seen = told(roles(*models), *workers).seen()
    assert seen.ok is not bool(missing)
    assert missing in seen.detail


def test_servers_that_do_not_answer_are_told_while_others_do() -> None:
    assert told(roles(None), {"one": False, "two": True}).seen().detail == "model servers that do not answer: one"
