"""What verdicts cost on a real vLLM, and what it tells of them. Its weights are random, so scores mean nothing."""

from collections.abc import Sequence

from fleet.bench.player import play
from fleet.clock import now_ms
from fleet.messages import AgentCompleted, AgentRequested, AgentResponse
from fleet.model_servers import EndpointConfig
from fleet.requests.task import Task
from tests.vllm.test_adapters import TRACE, worker

STEPS = ["cache it", "count it", "queue it", "shard it", "retry it", "log it", "drop it", "price it"]
PROPOSAL = {
    "type": "object",
    "properties": {"steps": {"type": "array", "items": {"enum": STEPS}, "minItems": 40, "maxItems": 60}},
    "required": ["steps"],
    "additionalProperties": False,
}
"""Random weights would write to the end of the window."""


async def scored(real_vllm: str, *, rationales: bool) -> list[AgentCompleted]:
    """The score calls of a council of four."""
    task = Task(
        task_description="Design a rate limiter. It must survive a restart.",
        num_agents=4,
        rounds=0,
        output_schema=PROPOSAL,
        timeout_seconds=240.0,
        rationales=rationales,
        seed=1,
    )
    answers: list[AgentResponse] = []
    async with worker(EndpointConfig(url=real_vllm), {}, max_tokens=3000, DEV="tiny") as caller:

        async def answer(call: AgentRequested) -> AgentResponse:
            answers.append(await caller.call(call, 1, TRACE))
            return answers[-1]

        await play(task, answer, task_id=f"scores-{rationales}-{now_ms()}", clock=now_ms)
    assert all(isinstance(each, AgentCompleted) for each in answers), answers
    return [each for each in answers if isinstance(each, AgentCompleted) and each.phase == "score"]


def written(answers: Sequence[AgentCompleted]) -> int:
    return sum(each.usage.completion_tokens or 0 for each in answers)


async def test_scores_without_rationales_take_a_small_part_of_the_tokens(real_vllm: str) -> None:
    """At most 0.4 × of those that the judges write; and of all tokens of the phase, prompts included."""
    reasoned = await scored(real_vllm, rationales=True)
    bare = await scored(real_vllm, rationales=False)
    shares = written(bare) / written(reasoned), total(bare) / total(reasoned)
    print(f"score phase: {written(reasoned)} → {written(bare)} tokens written ({shares[0]:.2f} ×), ", end="")
    print(f"{total(reasoned)} → {total(bare)} with prompts ({shares[1]:.2f} ×)")
    assert shares[0] <= 0.4


def total(answers: Sequence[AgentCompleted]) -> int:
    return sum(each.usage.total for each in answers)


async def test_a_real_vllm_tells_expected_scores(real_vllm: str) -> None:
    """Each score is the mean of what might have been drawn, and stands beside what was."""
    criteria = [
        criterion
        for each in await scored(real_vllm, rationales=False)
        for card in each.scores or ()
        for criterion in card.criteria.values()
    ]
    assert len(criteria) == 4 * 3 * 3
    assert all(criterion.drawn in range(11) and 0 < criterion.score < 10 for criterion in criteria)
    assert any(criterion.drawn != criterion.score for criterion in criteria)
