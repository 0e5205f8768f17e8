"""Every number of a result can be worked out from the result alone, as subjects.md says: 0 deviations."""

import json
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from fleet.messages import AgentCompleted, AgentRequested, AgentResponse, Check, Judge, JudgeKind, ModelUsage
from tests.support.agents import answer, failure
from tests.support.council import completed
from tests.support.recompute import deviations
from tests.support.variants import some_of

RECORDED = Path(__file__).parents[1] / "recorded" / "0.1.0" / "messages.json"
COUNCILS = 80
NAMES = ({"correctness": 3.0, "clarity": 1.5}, {"a" * 70: 2.0, "cost": 1.0, "é" * 40: 0.5}, "whatever is best", None)


class Answerer:
    """Judges of many kinds, whose calls fail, stay incomplete, and decline; some texts are equal, some have faults."""

    def __init__(self, number: int) -> None:
        self._random = Random(f"recompute/{number}")
        self._copies = self._random.random() < 0.25
        self._faults = self._random.random() * 0.5
        self._rough = self._random.random() < 0.3
        self._fails = self._random.choice((0.0, 0.0, 0.12))
        self._flat, self._size = self._random.random() < 0.1, self._random.choice((-3, 0, 1))

    def __call__(self, call: AgentRequested) -> AgentResponse:
        random = self._random
        if random.random() < self._fails and (call.phase, call.agent_id) != ("propose", "agent-dev-001"):
            return failure(call)
        words = " ".join(random.choices(["cache", "count", "queue", "shard", "retry", "log", "drop", "price"], k=12))
        text = f"the same text {call.round}" if self._copies and random.random() < 0.6 else f"{words} {random.random()}"
        judge = self._reward if call.judge is not None else self._judge
        response = answer(call, judge=judge, text=text, tokens=random.randrange(1, 50))
        priced = {name: self._with_cost(used) for name, used in response.usage_by_model.items()}
        return self._varied(response.change(usage_by_model=priced))

    def _with_cost(self, used: ModelUsage) -> ModelUsage:
        return used.change(cost=round((used.completion_tokens or 0) * 1.7e-6, 9))

    def _reward(self, call: AgentRequested, author: str) -> float:
        """Without bounds, of any size, and of some judges always the same."""
        if self._flat:
            return 3.0
        return 10.0**self._size * (int(author[-1]) % 5 + self._random.gauss(-2, 1.5))

    def _judge(self, call: AgentRequested, author: str) -> float:
        number = int(author[-1]) if author[-1].isdigit() else 5
        mild = 7 * int(call.agent_id[-1]) % 5 - 2
        value = max(0.0, min(10.0, 4 + number % 4 + mild + self._random.gauss(0, 1.5)))
        return float(round(value / 5) * 5 if self._rough else round(value, self._random.choice((0, 4))))

    def _varied(self, response: AgentCompleted) -> AgentCompleted:
        random = self._random
        if response.phase == "revise" and random.random() < 0.2:
            return response.change(proposal=None, declined="It is good.")
        if response.proposal is not None and random.random() < self._faults:
            return response.change(checks={"json": Check(status="failed", findings=("no JSON",))})
        if response.scores is not None:
            met = (random.random() < 0.6, random.random() < 0.6) if random.random() < 0.9 else ()
            cards = [card.change(requirements_met=met) for card in response.scores]
            if random.random() < 0.2:  # a part of a review is missing
                cards[0] = cards[0].change(criteria=dict([*cards[0].criteria.items()][1:]))
            return response.change(scores=tuple(cards))
        return response


def council_of(number: int) -> dict[str, Any]:
    """A request out of many."""
    random = Random(number)
    agents = random.choice((2, 3, 3, 4, 5, 6, 8))
    task: dict[str, Any] = {
        "num_agents": agents,
        "rounds": random.choice((0, 1, 1, 2, 3)),
        "seed": number,
        "rubric": random.choice(NAMES),
        "models": random.choice(((), ("x", "y"), ("x", "x", "y"))),
        "selection": random.choice(("score", "score", "score", "score", "architect", "vote", "checks")),
        "tie_margin": random.choice((0.0, 0.0, 0.5, 2.0)),
        "early_stop": random.random() < 0.5,
        "synthesis": random.random() < 0.3,
        "gate": random.random() < 0.4,
        "second_reading": random.random() < 0.3,
        "judges_per_proposal": 2 if agents > 4 and random.random() < 0.3 else None,
    }
    if random.random() < 0.5:
        kinds: list[JudgeKind] = ["classify", "generative_scoring"]
        task["judges"] = [Judge(name=f"j{at}", kind=kinds[at]) for at in range(random.choice((1, 1, 2)))]
    # With requirements critics settle nothing.
    if random.random() < 0.4:
        task["requirements"] = ("survives a restart", "costs nothing")
    return task


@some_of(30, "number", range(COUNCILS))
def test_a_fresh_result_can_be_worked_out(number: int) -> None:
    """Of councils of many kinds."""
    task = council_of(number)
    if len(task["models"]) > task["num_agents"]:
        task["models"] = ()
    event, _ = completed(Answerer(number), **task)
    assert deviations(msgspec.json.decode(msgspec.json.encode(event))) == []


@pytest.mark.parametrize("number", range(8))
def test_each_reward_is_of_the_model_that_gave_it(number: int) -> None:
    """A judge whose server falls back to another model is of several: of the first one's own, and of others."""
    others = Answerer(number)

    def answerer(call: AgentRequested) -> AgentResponse:
        response = others(call)
        if not isinstance(response, AgentCompleted) or response.reward is None:
            return response
        return response.change(reward=response.reward.change(model=("x", "y", "rm")[(number + call.question) % 3]))

    judges = [Judge(name="j", kind="classify")]
    event, _ = completed(answerer, judges=judges, num_agents=5, rounds=0, seed=number, models=("x", "y"))
    assert deviations(msgspec.json.decode(msgspec.json.encode(event))) == []


def recorded() -> list[dict[str, Any]]:
    """Results on their way, and in replies."""
    bodies = [body for each in json.loads(RECORDED.read_text()) for body in each.values() if isinstance(body, dict)]
    bodies += [body["result"] for body in bodies if isinstance(body.get("result"), dict)]
    return [body for body in bodies if body.get("status") == "COMPLETED" and "results" in body]


def test_recorded_results_can_be_worked_out() -> None:
    """Of the released version."""
    events = recorded()
    assert len(events) >= 5
    assert {event["task_id"]: deviations(event) for event in events if deviations(event)} == {}


def obedient(number: int) -> Any:
    """Reviewers who know the quality but for a point; one of them gives a 10 to an author who asks for it."""

    def judge(call: AgentRequested, author: str) -> float:
        reviewer, asked = (f"agent-dev-00{1 + (number + at) % 5}" for at in (0, 1 + number % 4))
        if (call.agent_id, author) == (reviewer, asked):
            return 10.0
        about = {"agent-dev-001": 6.2, "agent-dev-002": 6.0, "agent-dev-003": 6.1, "agent-dev-004": 5.9}
        noise = Random(f"{number}/{call.agent_id}/{author}").uniform(-1.8, 1.8)
        return round(about.get(author, 5.5) + noise, 1)

    return lambda call: answer(call, judge=judge)


def test_what_counts_for_an_obedient_score_can_be_worked_out() -> None:
    """Of councils of five with an obedient judge: which score it is, what counts for it, and that notes say so."""
    seen = 0
    for number in range(20):
        event, _ = completed(obedient(number), num_agents=5, rounds=0, seed=number)
        told = msgspec.json.decode(msgspec.json.encode(event))
        assert deviations(told) == []
        out = [review for entry in told["results"] for review in entry["reviews"] if review["counted_as"] is not None]
        assert len(event.notes) == len(out)
        assert all(review["score"] == 10.0 and review["counted_as"] < 8.0 for review in out)
        seen += len(out)
        for review in out:
            review["counted_as"] = None
        assert bool(deviations(told)) == bool(out)
    assert seen > 5
