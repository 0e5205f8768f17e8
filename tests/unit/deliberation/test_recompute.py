"""Every number of a result can be worked out from the raw reviews in it: done here from the published JSON alone, with
code of its own, after the formulas in subjects.md.
"""

from statistics import fmean
from typing import Any

import msgspec
import pytest

from fleet.messages import AgentCompleted, AgentRequested, AgentResponse, Check
from tests.support.agents import answer
from tests.support.council import completed

RUBRIC = {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}


def opinionated(call: AgentRequested, author: str) -> float:
    """Judges that differ in leniency and taste, and prefer what they see first."""
    place = list(call.labels.values()).index(author)
    taste = (7 * int(call.agent_id[-1]) + 3 * int(author[-1])) % 4
    return max(0.0, min(10.0, 3.0 + int(author[-1]) % 3 + taste - place + int(call.agent_id[-1]) % 3))


def answerer(call: AgentRequested) -> AgentResponse:
    response = answer(call, judge=opinionated)
    if isinstance(response, AgentCompleted) and response.proposal and call.agent_id.endswith("2"):
        return response.change(checks={"json": Check(status="failed", findings=("block 1, line 1: no JSON",))})
    return response


@pytest.fixture(params=[(3, 0), (5, 1), (5, 2), (7, 1)], ids=str)
def result(request: pytest.FixtureRequest) -> dict[str, Any]:
    agents, rounds = request.param
    event, _ = completed(answerer, num_agents=agents, rounds=rounds, models=("x", "y", "z"), early_stop=False)
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    return decoded


def early(place: int, shown: int) -> float:
    """The formula's x."""
    fall = [(1 / k - 1 / shown) / (1 - 1 / shown) for k in range(1, shown + 1)]
    return fall[place - 1] - fmean(fall)


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One per score: reviewer, author, score as given, x and y of the formula."""
    model = {entry["agent_id"]: entry["proposal"]["model"] for entry in result["results"]}
    shown = len(model) - 1
    found = [
        {
            "reviewer": review["reviewer_id"],
            "author": entry["agent_id"],
            "score": sum(RUBRIC[name] * given["score"] for name, given in review["criteria"].items()) / 6,
            "x": early(review["position"], shown),
            "same": float(model[review["reviewer_id"]] == model[entry["agent_id"]]),
            "review": review,
        }
        for entry in result["results"]
        for review in entry["reviews"]
        if review["phase"] == "score"
    ]
    alike = fmean(row["same"] for row in found)
    return [{**row, "y": row["same"] - alike} for row in found]


def test_scores_follow_from_the_criteria(result: dict[str, Any]) -> None:
    """A review's score is the weighted mean of its criteria, its adjusted score the formula's."""
    ranking = result["ranking"]
    for row in rows(result):
        assert row["review"]["score"] == pytest.approx(row["score"])
        adjusted = (
            row["score"]
            - ranking["leniency"][row["reviewer"]]
            - ranking["effects"]["position"] * row["x"]
            - ranking["effects"]["same_model"] * row["y"]
        )
        assert row["review"]["adjusted"] == pytest.approx(adjusted, abs=1e-4)


def test_result_scores_follow_from_the_adjusted(result: dict[str, Any]) -> None:
    """Mean of the adjusted scores, held within 0 … 10, less a point for each failed check; ranked by it."""
    for entry in result["results"]:
        adjusted = fmean(review["adjusted"] for review in entry["reviews"] if review["phase"] == "score")
        penalty = sum(check["status"] == "failed" for check in entry["checks"].values())
        assert entry["penalty"] == penalty
        assert entry["score"] == pytest.approx(max(0.0, min(10.0, adjusted) - penalty), abs=1e-3)
    scores = [entry["score"] for entry in result["results"]]
    assert scores == sorted(scores, reverse=True)
    assert result["margin"] == pytest.approx(scores[0] - scores[1], abs=1e-3)


def test_effects_are_the_least_squares(result: dict[str, Any]) -> None:
    """Each leniency and effect is what the residuals say of it, as if so much more evidence had said 0."""
    ranking, table = result["ranking"], rows(result)
    adjusted = {
        entry["agent_id"]: fmean(review["adjusted"] for review in entry["reviews"] if review["phase"] == "score")
        for entry in result["results"]
    }
    for row in table:
        row["rest"] = (
            row["score"]
            - adjusted[row["author"]]
            - ranking["leniency"][row["reviewer"]]
            - ranking["effects"]["position"] * row["x"]
            - ranking["effects"]["same_model"] * row["y"]
        )
    weight = ranking["leniency_weight"]
    assert 0 < weight <= 1
    for reviewer, leniency in ranking["leniency"].items():
        said = sum(row["rest"] for row in table if row["reviewer"] == reviewer)
        assert said == pytest.approx(weight * leniency, abs=1e-3)
    assert sum(ranking["leniency"][row["reviewer"]] for row in table) == pytest.approx(0, abs=1e-3)
    for effect, column in (("position", "x"), ("same_model", "y")):
        said = sum(row["rest"] * row[column] for row in table)
        assert said == pytest.approx(ranking["effects"][effect], abs=1e-3)


def test_borda_follows_from_the_scores(result: dict[str, Any]) -> None:
    """The share of pairs, within each reviewer's scores, that a proposal wins."""
    table = rows(result)
    for entry in result["results"]:
        points = [
            1.0 if one["score"] > other["score"] else 0.5 if one["score"] == other["score"] else 0.0
            for one in table
            for other in table
            if one["author"] == entry["agent_id"] != other["author"] and one["reviewer"] == other["reviewer"]
        ]
        assert entry["borda"] == pytest.approx(fmean(points), abs=1e-4)


def test_confidence_follows_from_the_scores(result: dict[str, Any]) -> None:
    """Share of scores given, times the share of those who saw the first two and put the first higher."""
    table, agents = rows(result), len(result["results"])
    first, second = (entry["agent_id"] for entry in result["results"][:2])
    by_reviewer: dict[str, dict[str, float]] = {}
    for row in table:
        by_reviewer.setdefault(row["reviewer"], {})[row["author"]] = row["score"]
    verdicts = [
        1.0 if cards[first] > cards[second] else 0.5 if cards[first] == cards[second] else 0.0
        for cards in by_reviewer.values()
        if first in cards and second in cards
    ]
    assert result["confidence"] == pytest.approx(len(table) / (agents * (agents - 1)) * fmean(verdicts), abs=1e-3)


def test_usage_is_the_sum_of_the_calls(result: dict[str, Any]) -> None:
    """8 tokens a call; the rounds' tokens are those of their critiques and revisions."""
    usage = result["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == 8 * usage["calls"]
    for report in result["rounds"]:
        assert report["tokens"] == 8 * 2 * len(result["results"])
