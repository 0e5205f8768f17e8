"""Writes what a report says of each proposal: texts, reviews, differences, scores, checks."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from fleet.cli.report.blocks import Block, Folded, Grid, Items, Prose, Quote, Section
from fleet.cli.report.differences import difference
from fleet.cli.report.words import number, reason, rewarded
from fleet.cli.verdict import count
from fleet.messages import DeliberationCompleted, RankedResult, Review


def proposal_sections(event: DeliberationCompleted) -> Iterator[Section]:
    """Who scored whom, then each proposal, best first."""
    matrix = list(_matrix(event))
    if matrix:
        yield Section("Who scored whom", matrix)
    yield Section("The proposals", ())
    for result in event.results:
        yield Section(_heading(result), tuple(_proposal(result)), level=3)


def _matrix(event: DeliberationCompleted) -> Iterator[Block]:
    """Reviewers in rows, proposals in columns."""
    authors = [result.agent_id for result in event.results]
    reviews = {
        (review.reviewer_id, result.agent_id): review
        for result in event.results
        for review in result.reviews
        if review.phase == "score"
    }
    if not reviews:
        return
    reviewers = sorted({reviewer for reviewer, _ in reviews})
    yield Prose("Each row is a reviewer, each column a proposal. Nobody scores its own.")
    rows = [(reviewer, *(_score_of(reviews, reviewer, author) for author in authors)) for reviewer in reviewers]
    rows.append(("after correction", *(number(result.score) for result in event.results)))
    yield Grid(("reviewer", *authors), rows)


def _score_of(reviews: Mapping[tuple[str, str], Review], reviewer: str, author: str) -> str:
    review = reviews.get((reviewer, author))
    return "own" if reviewer == author else "–" if review is None else number(review.score)


def _heading(result: RankedResult) -> str:
    place = "Shadow" if result.shadow else f"Place {result.rank}"
    return f"{place}: {result.agent_id}" + (f", {number(result.score)} of 10" if result.score is not None else "")


def _proposal(result: RankedResult) -> Iterator[Block]:
    proposal = result.proposal
    where = f" at {proposal.endpoint}" if proposal.endpoint else ""
    yield Prose(
        f"By {proposal.model}{where}, in the role {result.role}. {count(proposal.tokens, 'token')}, "
        f"rewritten {count(proposal.revisions, 'time')}."
    )
    if result.shadow:
        yield Prose("It ran together with the others for comparison: it was scored, and could not win.")
    if proposal.truncated:
        yield Prose("The model server cut this text off.")
    yield Folded("The text", (Quote(proposal.content),))
    yield from _course(result)
    yield from _scores(result)
    yield from _checks(result)


def _course(result: RankedResult) -> Iterator[Block]:
    """Round by round: what reviewers said, and what the author made of it."""
    texts = [*((text.round, text.content) for text in result.earlier), (None, result.proposal.content)]
    declined = {each.round: each.reason for each in result.declined}
    rounds = sorted({review.round for review in result.reviews if review.phase == "critique"} | {*declined})
    for round_ in rounds:
        yield Folded(f"Reviews of round {round_}", tuple(_critiques(result, round_)))
        if round_ in declined:
            yield Prose(f"Its author kept the text in round {round_}: {reason(declined[round_])}")
    for (_, before), (written_in, after) in pairwise(texts):
        which = "the last revision" if written_in is None else f"the revision of round {written_in}"
        yield Folded(f"What {which} changed", (difference(before, after),))
    if result.earlier:
        first = result.earlier[0]
        yield Folded("The first text", (Quote(first.content),))


def _critiques(result: RankedResult, round_: int) -> Iterator[Block]:
    for review in result.reviews:
        if (review.phase, review.round) != ("critique", round_):
            continue
        scores = ", ".join(f"{name} {number(score, 1)}" for name, score in review.scores.items())
        yield Prose(f"{review.reviewer_id}{f' ({scores})' if scores else ''}:")
        points = [("good", review.strengths), ("weak", review.weaknesses), ("should change", review.changes)]
        yield Items([f"{kind}: {reason(text)}" for kind, told in points for text in told])


def _scores(result: RankedResult) -> Iterator[Block]:
    rows = [
        (review.reviewer_id, criterion, number(card.score), reason(card.rationale))
        for review in result.reviews
        for criterion, card in review.criteria.items()
    ]
    if rows:
        yield Folded("Scores, with reasons", (Grid(("reviewer", "criterion", "of 10", "reason"), rows),))
    gave = [
        (review.reviewer_id, rewarded(review.reward), review.reward.model, number(review.score))
        for review in result.reviews
        if review.reward is not None
    ]
    if gave:
        told = (
            "A judge has no scale. What it gives says something only beside what it gives other texts for the same "
            "question; so it is put on the scale of the reviewers' scores."
        )
        yield Folded("What judges gave", (Prose(told), Grid(("judge", "gave", "model", "comes to, of 10"), gave)))


def _checks(result: RankedResult) -> Iterator[Block]:
    rows = [
        (name, check.status.replace("_", " "), "; ".join(check.findings))
        for name, check in result.checks.items()
        if check.status != "not_applicable" or check.findings
    ]
    if rows:
        yield Folded("Checks", (Grid(("check", "outcome", "findings"), rows),))
