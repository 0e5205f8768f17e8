"""What a real vLLM tells of a text: a reward model by `/classify`, a model that writes by `/generative_scoring`.

The weights are random: rewards mean nothing, and are told as they are.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fleet.bench.player import play
from fleet.clock import now_ms
from fleet.messages import (
    AgentFailed,
    AgentRequested,
    AgentResponse,
    ChatMessage,
    DeliberationCompleted,
    Judge,
)
from fleet.model_servers import EndpointConfig
from fleet.requests.task import Task
from tests.support.agents import answer
from tests.vllm.conftest import vllm
from tests.vllm.test_adapters import TRACE, call, completed, worker

TEXTS = ("Use a token bucket in Redis.", "Count requests in a window.", "Do nothing at all.", "import os " * 20)
REWARD = Judge(name="reward", kind="classify", model="rm")
ASKED = Judge(name="asked", kind="generative_scoring", model="tiny")


@pytest.fixture(scope="session")
def reward_vllm(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM that serves a reward model, and nothing that writes."""
    log = tmp_path_factory.mktemp("vllm-reward") / "vllm.log"
    with vllm(vllm_environment, log, "--runner", "pooling", "--served-model-name", "rm", model="tiny-reward") as url:
        yield url


def shown(text: str) -> tuple[ChatMessage, ...]:
    return ChatMessage(role="user", content="Design a rate limiter."), ChatMessage(role="assistant", content=text)


def judged(judge: Judge, text: str) -> AgentRequested:
    return call(agent_id=judge.judge_id, phase="score", labels={"A": "b"}, judge=judge, messages=shown(text))


async def raw(url: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"{url}{path}", json=body) as response:
        return response.status, await response.json()


async def test_a_reward_is_the_models_raw_number(reward_vllm: str) -> None:
    """The one before the sigmoid, which makes good texts alike; its tokens are counted, and it writes none."""
    rewards = {}
    async with worker(EndpointConfig(url=reward_vllm), {}) as caller:
        for text in TEXTS:
            response = completed(await caller.call(judged(REWARD, text), 1, TRACE))
            assert response.reward is not None
            assert response.reward.model == "rm"
            assert (response.usage.prompt_tokens or 0) > 10
            assert response.usage.completion_tokens == 0
            rewards[text] = response.reward.value
    assert len(set(rewards.values())) == len(TEXTS)
    assert max(map(abs, rewards.values())) > 1
    for text, value in rewards.items():
        body = {"model": "rm", "messages": [{"role": each.role, "content": each.content} for each in shown(text)]}
        _, plain = await raw(reward_vllm, "/classify", {**body, "use_activation": False})
        assert plain["data"][0]["probs"] == [pytest.approx(value, rel=0.02)]
        _, squeezed = await raw(reward_vllm, "/classify", body)
        assert 0 <= squeezed["data"][0]["probs"][0] <= 1


async def test_a_text_that_is_too_long_is_refused(reward_vllm: str) -> None:
    """Not cut."""
    async with worker(EndpointConfig(url=reward_vllm), {}) as caller:
        response = await caller.call(judged(REWARD, "import os. " * 6000), 1, TRACE)
    assert isinstance(response, AgentFailed)
    assert response.error_type == "ContextOverflow"


async def test_a_reward_model_has_no_other_routes(reward_vllm: str, real_vllm: str) -> None:
    """So each kind of judge needs a server that serves it."""
    status, _ = await raw(reward_vllm, "/generative_scoring", {})
    assert status == 404
    status, _ = await raw(real_vllm, "/classify", {"model": "tiny", "input": "x"})
    assert status == 404


async def test_the_odds_of_a_yes(real_vllm: str) -> None:
    """Through the chat template, in one token; another text has other odds."""
    async with worker(EndpointConfig(url=real_vllm), {}) as caller:
        values = []
        for text in TEXTS:
            response = completed(await caller.call(judged(ASKED, text), 1, TRACE))
            assert response.reward is not None
            assert response.usage.completion_tokens == 1
            values.append(response.reward.value)
    assert len(set(values)) == len(TEXTS)
    assert all(abs(value) < 14 for value in values)


async def test_a_prompt_that_vllm_would_cut_is_not_sent(real_vllm: str) -> None:
    """It cuts prompts of /generative_scoring without a word, so the fleet counts before."""
    window = 8192
    _, told = await raw(
        real_vllm, "/generative_scoring", {"query": [], "items": [[5] * (window + 100)], "label_token_ids": [7, 8]}
    )
    assert told["usage"]["prompt_tokens"] == window - 1
    async with worker(EndpointConfig(url=real_vllm), {}) as caller:
        response = await caller.call(judged(ASKED, "import os. " * 6000), 1, TRACE)
    assert isinstance(response, AgentFailed)
    assert response.error_type == "ContextOverflow"


async def test_a_council_with_a_real_reward_model(reward_vllm: str) -> None:
    """Its rewards enter the ranking, which can be worked out from the event alone."""
    task = Task(task_description="Design a rate limiter.", num_agents=4, rounds=0, timeout_seconds=120.0, seed=1)
    texts = iter(TEXTS)
    async with worker(EndpointConfig(url=reward_vllm), {}) as caller:

        async def respond(each: AgentRequested) -> AgentResponse:
            if each.judge is not None:
                return await caller.call(each, 1, TRACE)
            return answer(each, text=next(texts) if each.phase == "propose" else None, judge=lambda call, author: 6.0)

        state = await play(task, respond, task_id=f"judged-{now_ms()}", clock=now_ms, judges=(REWARD,))
    event = state.result
    assert isinstance(event, DeliberationCompleted)
    rewards = {
        entry.agent_id: review.reward.value
        for entry in event.results
        for review in entry.reviews
        if review.reward is not None
    }
    assert event.winner_id == max(rewards, key=lambda agent: rewards[agent])
    assert event.usage_by_model["rm"].calls == 4
    print(f"rewards {rewards}; a judge's four calls used {event.usage_by_model['rm'].prompt_tokens} tokens")
