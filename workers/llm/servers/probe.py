"""Asks each model server for one token: whether it answers, and why not."""

import asyncio
import time

from msgspec import Struct, structs

from fleet.clock import now_ms
from fleet.config import Settings
from fleet.errors import AgentCallError, ConfigError
from fleet.messages import ChatMessage
from fleet.model_servers import JudgeConfig, only_for_judges
from workers.llm.attempt import Attempt, Attempts
from workers.llm.requests import ModelRequest, ModelTarget
from workers.llm.servers.endpoint import Endpoint
from workers.llm.servers.endpoints import Endpoints
from workers.llm.servers.search import Route

NO_FAULT = ("EmptyAnswer", "Truncated", "Declined")
"""What one token may end with on a server that is well."""


class ProbeResult(Struct, frozen=True, kw_only=True):
    """What one server said. `error` None: it answered. `misses`: models that are wanted, and not on its list."""

    name: str
    kind: str
    url: str
    model: str = ""
    window: int | None = None
    seconds: float = 0.0
    error_type: str | None = None
    error: str | None = None
    misses: tuple[str, ...] = ()


class _NoWatcher:
    def wrote(self, text: str, tokens: int, max_tokens: int) -> None:
        pass


async def ask_all(settings: Settings, within_s: float) -> list[ProbeResult]:
    """Every model server of the settings, at the same time."""
    limits = structs.replace(settings.workers, connect_timeout_s=within_s, stall_timeout_s=within_s)
    attempts = Attempts(structs.replace(settings, workers=limits))
    try:
        endpoints = Endpoints(settings.model_servers, limits)
        return await asyncio.gather(*(_ask(attempts, each, settings, within_s) for each in endpoints.all))
    finally:
        await attempts.close()


async def _ask(attempts: Attempts, endpoint: Endpoint, settings: Settings, within_s: float) -> ProbeResult:
    result = ProbeResult(name=endpoint.name, kind=endpoint.config.kind, url=endpoint.shown)
    judge = _judge_of(settings, endpoint.name)
    models = (judge.model,) if judge and judge.model else () if judge else wanted_models(settings, endpoint.name)
    target = next((model for model in models if not endpoint.is_not_for(model)), None)
    attempt, began = Attempt(1), time.monotonic()
    attempt.route = Route(endpoint, ModelTarget(name=target))
    request = ModelRequest(
        role="DEV",
        messages=(ChatMessage(role="user", content="Say yes."),),
        temperature=0.0,
        max_tokens=1,
        seed=None,
        deadline_ms=now_ms() + round(within_s * 1000),
        accept_truncated=True,
        judge=judge.kind if judge else None,
    )
    error: AgentCallError | None = None
    try:
        async with asyncio.timeout(within_s):
            attempts.know(endpoint)
            await attempts.make(attempt, request, {}, _NoWatcher(), first_token_s=within_s)
    except AgentCallError as failed:
        error = failed if failed.error_type not in NO_FAULT else None
    except TimeoutError:
        return structs.replace(result, error_type="Timeout", error=f"no answer within {within_s:g} s")
    except ConfigError as wrong:
        return structs.replace(result, error_type="Config", error=str(wrong))
    card = endpoint.card(target)
    return structs.replace(
        result,
        model=attempt.model or target or "",
        window=endpoint.window(card) if card else None,
        seconds=time.monotonic() - began,
        error_type=error.error_type if error else None,
        error=error.error if error else None,
        misses=tuple(model for model in models if not endpoint.is_not_for(model) and endpoint.lacks(model)),
    )


def _judge_of(settings: Settings, endpoint: str) -> JudgeConfig | None:
    """Whose reward model it serves; None: it serves those who write."""
    if endpoint not in only_for_judges(settings.judges):
        return None
    return next(judge for judge in settings.judges.values() if judge.endpoint == endpoint)


def wanted_models(settings: Settings, endpoint: str) -> tuple[str, ...]:
    """What roles ask for, by the name that servers know, where this endpoint may be asked for it."""
    named = [settings.vllm_model, *(model for role in settings.roles.values() for model in role.all_models)]
    result: dict[str, None] = {}
    for name in filter(None, named):
        alias = settings.models.get(name)
        if alias is None or alias.endpoints is None or endpoint in alias.endpoints:
            result[(alias.name if alias else None) or name] = None
    return tuple(result)
