"""What a report says of judges: what each gave, what that is, and what it comes to."""

import pytest

from fleet.cli.report import markdown
from fleet.cli.report.words import rewarded
from fleet.cli.report.writing import document
from fleet.messages import Judge, Reward
from tests.support.council import completed

JUDGE = Judge(name="reward", kind="classify", model="rm", endpoint="rm-1", timeout_s=20.0)


def test_a_report_tells_what_judges_gave() -> None:
    """Of each proposal, with the score that it comes to."""
    event, _ = completed(judges=[JUDGE], num_agents=3, rounds=0)
    text = markdown.render(document(event))
    for result in event.results:
        (review,) = (each for each in result.reviews if each.reward is not None)
        assert review.reward is not None
        assert f"| judge-reward | {review.reward.value:.2f}, the number of a reward model | rm |" in text
    assert text.count("What judges gave") == 3


@pytest.mark.parametrize(("value", "chance"), [(0.0, "50.0%"), (2.0, "88.1%"), (-1e300, "0.0%"), (1e300, "100.0%")])
def test_log_odds_are_told_as_a_chance_too(value: float, chance: str) -> None:
    """However large they are."""
    assert rewarded(Reward(value=value, kind="generative_scoring", model="m")).endswith(f"Yes ({chance})")
