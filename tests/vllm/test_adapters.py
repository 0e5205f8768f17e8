"""What only a real vLLM shows of its own: LoRA adapters, loaded while it runs, and the messages API."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fleet.bench.player import play
from fleet.clock import now_ms
from fleet.config import RoleProfile, Settings, Workers
from fleet.messages import AgentCompleted, AgentFailed, AgentProgress, AgentRequested, AgentResponse, ChatMessage, Usage
from fleet.messages.trace_ids import TraceContext
from fleet.model_servers import EndpointConfig, ModelConfig
from fleet.requests.task import Task
from fleet.times import rfc3339
from tests.vllm.conftest import vllm
from workers.calls.caller import Caller
from workers.llm.client import ModelClient

WINDOW = 8192
TRACE = TraceContext("1" * 32, "2" * 16)
SAID = ChatMessage(role="user", content="Say something.")


async def unwatched(event: AgentProgress, number: int, traceparent: str) -> None: ...


@pytest.fixture(scope="session")
def lora_vllm(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM with one adapter, which may be told to load others."""
    arguments = ("--enable-lora", "--max-loras", "2", "--max-lora-rank", "8")
    dev = f"dev={vllm_environment / 'adapters' / 'dev'}"
    log = tmp_path_factory.mktemp("vllm-lora") / "vllm.log"
    with vllm(vllm_environment, log, *arguments, "--lora-modules", dev) as url:
        yield url


@pytest.fixture
def adapters(vllm_environment: Path) -> Path:
    """Where the server finds those that it has not loaded yet."""
    return vllm_environment / "adapters"


@asynccontextmanager
async def worker(
    endpoint: EndpointConfig, models: dict[str, ModelConfig], *, max_tokens: int = 200, **roles: str
) -> AsyncIterator[Caller]:
    profiles = {
        role: RoleProfile(persona="You write code.", model=model, max_tokens=max_tokens)
        for role, model in roles.items()
    }
    settings = Settings(endpoints={"vllm": endpoint}, models=models, roles=profiles, workers=Workers())
    client = ModelClient(settings)
    client.start()
    caller = Caller(settings, client, unwatched)
    try:
        yield caller
    finally:
        await caller.close()
        await client.close()


def call(role: str = "DEV", **more: Any) -> AgentRequested:
    fields = {"task_id": "t", "agent_id": "a", "phase": "propose", "round": 0, "messages": (SAID,), "num_agents": 1}
    late = rfc3339(now_ms() + 120_000)
    return AgentRequested(role=role, deadline_at=late, accept_truncated=True, **{**fields, **more})


def completed(response: AgentResponse) -> AgentCompleted:
    assert isinstance(response, AgentCompleted), response
    return response


async def test_the_messages_api_of_a_lora_vllm(lora_vllm: str) -> None:
    """Text, end, counts and the model's name; a prompt that is too long is told as such."""
    endpoint = EndpointConfig(url=lora_vllm, kind="anthropic", models=("tiny",))
    async with worker(endpoint, {}, DEV="tiny") as caller:
        answer = completed(await caller.call(call(), 1, TRACE))
        long = ChatMessage(role="user", content="a word of many " * WINDOW)
        refused = await caller.call(call(messages=(long,)), 1, TRACE)
    assert answer.proposal is not None
    assert answer.proposal.content
    assert (answer.proposal.truncated, answer.proposal.finish_reason) == (True, "max_tokens")
    assert answer.model == "tiny"
    assert (answer.usage.prompt_tokens or 0) > 0
    assert answer.usage.completion_tokens == 200
    assert isinstance(refused, AgentFailed)
    assert refused.error_type == "ContextOverflow"


async def test_each_role_has_its_adapter(lora_vllm: str, adapters: Path) -> None:
    """One is there, one is loaded, one cannot be had: then the base answers, and the result says so."""
    models = {
        "for-dev": ModelConfig(name="dev", base="tiny"),
        "for-qa": ModelConfig(name="qa", base="tiny", adapter=str(adapters / "qa")),
        "for-data": ModelConfig(name="none", base="tiny", adapter=str(adapters / "none")),
    }
    async with worker(EndpointConfig(url=lora_vllm), models, DEV="for-dev", QA="for-qa", DATA="for-data") as caller:
        answers = {role: completed(await caller.call(call(role), 1, TRACE)) for role in ("DEV", "QA", "DATA")}
    assert {role: answer.model for role, answer in answers.items()} == {"DEV": "dev", "QA": "qa", "DATA": "tiny"}
    stands_in = "tiny answered in place of its adapter none"
    assert [role for role, answer in answers.items() if stands_in in answer.notes] == ["DATA"]


async def test_adapters_cost_cached_tokens(lora_vllm: str, adapters: Path) -> None:
    """An adapter's name is a part of what vLLM caches by: roles with adapters of their own share no prefix."""
    models = {
        "for-dev": ModelConfig(name="dev", base="tiny"),
        "for-qa": ModelConfig(name="qa", base="tiny", adapter=str(adapters / "qa")),
    }
    shares = {}
    for name, roles in (("base", {"DEV": "tiny", "QA": "tiny"}), ("adapters", {"DEV": "for-dev", "QA": "for-qa"})):
        used = await council(lora_vllm, models, f"{name}-{now_ms()}", **roles)
        shares[name] = (used.cached_tokens or 0) / (used.prompt_tokens or 1)
    print(f"cached share of a council: {shares}")
    assert 0 < shares["adapters"] < shares["base"]


async def council(lora_vllm: str, models: dict[str, ModelConfig], task_id: str, **roles: str) -> Usage:
    """What four agents of two roles use in one round."""
    task = Task(
        task_description=f"{task_id}: design a rate limiter. " + "It must survive a restart. " * 60,
        num_agents=4,
        rounds=1,
        roles=("DEV", "QA"),
        rubric={"correctness": 1.0},
        timeout_seconds=240.0,
        early_stop=False,
        accept_truncated=True,
    )
    async with worker(EndpointConfig(url=lora_vllm), models, **roles) as caller:
        state = await play(task, lambda each: caller.call(each, 1, TRACE), task_id=task_id, clock=now_ms)
    return Usage(
        prompt_tokens=state.usage.prompt_tokens,
        completion_tokens=state.usage.completion_tokens,
        cached_tokens=state.usage.cached_tokens,
    )
