"""Every number of a result can be worked out from the raw reviews in it: done here from the published JSON alone, with
code of its own, after the formulas in subjects.md.
"""

from statistics import NormalDist, fmean
from typing import Any

import msgspec
import numpy as np
import pytest

from fleet.messages import AgentCompleted, AgentRequested, AgentResponse, Check
from tests.support.agents import answer
from tests.support.council import completed

POWERS = {2: 0.45, 4: 0.8, 6: 1.1}
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


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One per score: reviewer, author, place, score as given, and y of the formula."""
    model = {entry["agent_id"]: entry["proposal"]["model"] for entry in result["results"]}
    found = [
        {
            "reviewer": review["reviewer_id"],
            "author": entry["agent_id"],
            "score": sum(RUBRIC[name] * given["score"] for name, given in review["criteria"].items()) / 6,
            "place": review["position"],
            "same": float(model[review["reviewer_id"]] == model[entry["agent_id"]]),
            "review": review,
        }
        for entry in result["results"]
        for review in entry["reviews"]
        if review["phase"] == "score"
    ]
    return [{**row, "y": row["same"] - fmean(o["same"] for o in found if o["place"] == row["place"])} for row in found]


class Adjustment:
    """The turns of subjects.md."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.rows = rows(result)
        authors = sorted({row["author"] for row in self.rows})
        reviewers = sorted({row["reviewer"] for row in self.rows})
        self.authors, self.reviewers = authors, reviewers
        given = np.array([row["score"] for row in self.rows])
        design = np.zeros((len(given), len(authors) + len(reviewers) + 1))
        for number, row in enumerate(self.rows):
            design[number, authors.index(row["author"])] = 1
            design[number, len(authors) + reviewers.index(row["reviewer"])] = 1
            design[number, -1] = row["y"]
        places = {row["place"] for row in self.rows}
        freedom = len(given) - len(authors) - len(places) + 1 - bool(np.any(abs(design[:, -1]) > 1e-9)) - len(reviewers)
        error, spread, counted, before = 1.0, 1.0, given, None
        for _ in range(100):
            weight = error / spread
            shrink = [0.0] * len(authors) + [weight] * len(reviewers) + [error / 0.49]
            inverse = np.linalg.inv(design.T @ design + np.diag(shrink))
            solution = inverse @ design.T @ counted
            residual = given - design @ solution
            residual -= [residual[[o["place"] == row["place"] for o in self.rows]].mean() for row in self.rows]
            limit = 1.345 * error**0.5
            counted = given - residual + np.clip(residual, -limit, limit)
            now = np.array([error, spread, *solution])
            if before is not None and abs(now - before).max() < 1e-6:
                break
            before = now
            trace = np.trace(inverse[len(authors) : -1, len(authors) : -1])
            error = (4 + (residual**2).sum()) / (4 + max(0.0, freedom + weight * trace))
            squares = (solution[len(authors) : -1] ** 2).sum()
            spread = (2 * 0.15 + squares + error * trace) / (2 + len(reviewers))
        self.error, self.weight, self.inverse, self.counted = error, error / spread, inverse, counted
        self.leniency = dict(zip(reviewers, solution[len(authors) : -1], strict=True))
        self.same_model = solution[-1]
        self.quality = {
            author: fmean(
                score - self.leniency[row["reviewer"]] - self.same_model * row["y"]
                for row, score in zip(self.rows, counted, strict=True)
                if row["author"] == author
            )
            for author in authors
        }

    def concentration(self, author: str, model: dict[str, str]) -> float:
        """The sum of the squares of the models' shares in an author's reviewers."""
        run = [model[row["reviewer"]] for row in self.rows if row["author"] == author]
        return sum((run.count(name) / len(run)) ** 2 for name in set(run))


def faulty(entry: dict[str, Any]) -> bool:
    """Whether a check but that of the requirements failed."""
    return any(check["status"] == "failed" for name, check in entry["checks"].items() if name != "requirements")


def test_scores_follow_from_the_criteria(result: dict[str, Any]) -> None:
    """A review's score is the weighted mean of its criteria."""
    for row in rows(result):
        assert row["review"]["score"] == pytest.approx(row["score"])


def test_adjustment_is_the_least_squares(result: dict[str, Any]) -> None:
    """The same leniencies, effect, weight, error and adjusted scores, worked out from the scores alone."""
    ours, ranking = Adjustment(result), result["ranking"]
    assert ranking["leniency"] == pytest.approx(ours.leniency, abs=2e-6)
    assert ranking["effects"] == pytest.approx({"same_model": ours.same_model}, abs=2e-6)
    assert (ranking["leniency_weight"], ranking["error"]) == pytest.approx((ours.weight, ours.error), abs=2e-6)
    for row, counted in zip(ours.rows, ours.counted, strict=True):
        adjusted = counted - ours.leniency[row["reviewer"]] - ours.same_model * row["y"]
        assert row["review"]["adjusted"] == pytest.approx(adjusted, abs=2e-6)


def test_chances_follow_from_the_adjustment(result: dict[str, Any]) -> None:
    """`p_best` and `effective_reviewers`, by another way of integrating."""
    ours = Adjustment(result)
    sound = [entry["agent_id"] for entry in result["results"] if not faulty(entry)]
    model = {entry["agent_id"]: entry["proposal"]["model"] for entry in result["results"]}
    size, at = len(sound), [ours.authors.index(author) for author in sound]
    covariance = ours.error * ours.inverse[np.ix_(at, at)]
    common = (covariance.sum() - np.trace(covariance)) / (size * (size - 1))
    shared = max(0.1, 1 - ours.error)
    variance = [
        max(0.01, covariance[number, number] - common) + shared * ours.concentration(author, model)
        for number, author in enumerate(sound)
    ]
    normal = [NormalDist(ours.quality[name], var**0.5) for name, var in zip(sound, variance, strict=True)]
    xs = np.linspace(min(n.mean - 6 * n.stdev for n in normal), max(n.mean + 6 * n.stdev for n in normal), 2001)
    below = [np.array([each.cdf(x) for x in xs]) for each in normal]
    chance = [
        (np.array([each.pdf(x) for x in xs]) * np.prod([b for k, b in enumerate(below) if k != j], axis=0)).sum()
        * (xs[1] - xs[0])
        for j, each in enumerate(normal)
    ]
    powered = np.array(chance) ** POWERS[size]
    expected = powered / powered.sum()
    assert {entry["agent_id"]: entry["p_best"] for entry in result["results"]} == pytest.approx(
        dict.fromkeys(ours.authors, 0.0) | dict(zip(sound, expected, strict=True)), abs=2e-3
    )
    reviewers = len(ours.authors) - 1
    effective = fmean(
        (ours.error + shared) / (ours.error / reviewers + shared * ours.concentration(author, model))
        for author in ours.authors
    )
    assert result["ranking"]["effective_reviewers"] == pytest.approx(effective, abs=0.006)


def test_result_scores_follow_from_the_adjusted(result: dict[str, Any]) -> None:
    """Mean of the adjusted scores, within 0 … 10, less a point for each failed check; ranked by faults, then by it."""
    for entry in result["results"]:
        adjusted = fmean(review["adjusted"] for review in entry["reviews"] if review["phase"] == "score")
        penalty = sum(check["status"] == "failed" for check in entry["checks"].values())
        assert entry["penalty"] == penalty
        assert entry["score"] == pytest.approx(max(0.0, min(10.0, adjusted) - penalty), abs=1e-3)
    order = [(faulty(entry), -entry["score"]) for entry in result["results"]]
    assert order == sorted(order)
    scores = [entry["score"] for entry in result["results"]]
    assert result["margin"] == pytest.approx(scores[0] - scores[1], abs=1e-3)


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
