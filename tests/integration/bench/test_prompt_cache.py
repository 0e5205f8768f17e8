"""How much of a council's prompts a server's prefix cache has: on the simulated vLLM, block by block."""

import pytest

from fleet import config
from fleet.bench.player import play
from fleet.bench.quality.real import Bounds, Models
from fleet.clock import now_ms
from fleet.requests.task import Task
from workers.simulator.config import SimulatorConfig
from workers.simulator.server import Simulator

SHORT = "Design a rate limiter for the public REST API of a payment service"
LONG = " ".join(f"Requirement {number}: the limiter keeps its counters." for number in range(250))


@pytest.mark.parametrize(
    ("description", "agents", "answer_tokens", "least"), [(LONG, 5, 200, 0.6), (LONG, 3, 500, 0.6), (SHORT, 3, 60, 0.5)]
)
async def test_most_prompt_tokens_come_from_the_prefix_cache(
    description: str, agents: int, answer_tokens: int, least: float
) -> None:
    """Of tasks longer than their answers, 60 % and more; of the demonstration, half."""
    async with Simulator(SimulatorConfig(answer_tokens=answer_tokens)) as simulator:
        settings = config.load({"VLLM_URL": simulator.url})
        async with Models(settings, Bounds(), 1) as models:
            task = Task(task_description=description, num_agents=agents, rounds=1)
            state = await play(task, models.ask, task_id="t", clock=now_ms)
    assert not state.failures
    share = (state.usage.cached_tokens or 0) / (state.usage.prompt_tokens or 1)
    print(f"{agents} agents, answers of {answer_tokens} tokens: {share:.1%} of {state.usage.prompt_tokens}")
    assert share >= least
