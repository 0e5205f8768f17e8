"""Reads from results who scored texts of which models, and compares each model of a role with the role's usual one."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from fleet.cli.models.comparing import Comparison, Observation, compare
from fleet.messages import DeliberationCompleted


@dataclass(frozen=True, slots=True)
class Author:
    """Of one text. `score`: in the result, null: nobody scored it."""

    role: str
    model: str
    shadow: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reviewer gave, by author. `model`: the reviewer's, as far as the result tells."""

    model: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Council:
    """What one result tells of models. `trial`: readings of first texts, those of shadows among them."""

    authors: Mapping[str, Author]
    final: tuple[Reading, ...]
    trial: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Of one model in one role. `score`: mean of its proposals' scores. `compared` null: it is the usual one, or no
    reviewer scored it and the usual one.
    """

    role: str
    model: str
    proposals: int
    shadows: int
    score: float | None
    usual: str
    compared: Comparison | None = field(default=None)


def council_of(event: DeliberationCompleted) -> Council:
    """Reviewers of the score phase are taken to be of the model that wrote their own proposals."""
    authors = {each.agent_id: Author(each.role, each.proposal.model, each.shadow, each.score) for each in event.results}
    given: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in event.ranked:
        for review in result.reviews:
            if review.phase == "score" and review.score is not None:
                given[review.reviewer_id][result.agent_id].append(review.score)
    final = tuple(
        Reading(authors[reviewer].model, {author: fmean(scores) for author, scores in by_author.items()})
        for reviewer, by_author in given.items()
        if reviewer in authors
    )
    told = event.shadows.readings if event.shadows is not None else ()
    return Council(authors, final, tuple(Reading(one.model, one.scores) for one in told))


def reports(councils: Iterable[Council], role: str | None = None) -> Iterator[ModelReport]:
    """By role, the usual model first: the one that wrote most proposals which could win."""
    councils = list(councils)
    by_role: dict[str, Counter[str]] = defaultdict(Counter)
    authors: dict[tuple[str, str], list[Author]] = defaultdict(list)
    for council in councils:
        for author in council.authors.values():
            by_role[author.role][author.model] += not author.shadow
            authors[author.role, author.model].append(author)
    for name in sorted(by_role):
        if role in (None, name):
            usual = min(by_role[name], key=lambda model: (-by_role[name][model], model))
            for model in sorted(by_role[name], key=lambda model: (model != usual, model)):
                wrote = authors[name, model]
                scores = [author.score for author in wrote if author.score is not None]
                found = [seen for each in councils if (seen := list(_observations(each, name, model, usual)))]
                yield ModelReport(
                    role=name,
                    model=model,
                    proposals=len(wrote),
                    shadows=sum(author.shadow for author in wrote),
                    score=fmean(scores) if scores else None,
                    usual=usual,
                    compared=compare(found) if found and model != usual else None,
                )


def _observations(council: Council, role: str, model: str, usual: str) -> Iterator[Observation]:
    """A shadow is compared by first texts, members by their last ones."""

    def of(name: str, *, shadow: bool) -> set[str]:
        return {
            agent
            for agent, author in council.authors.items()
            if (author.role, author.model, author.shadow) == (role, name, shadow)
        }

    on_trial = of(model, shadow=True)
    new, old = on_trial or of(model, shadow=False), of(usual, shadow=False)
    for reading in council.trial if on_trial else council.final:
        theirs, others = ([reading.scores[agent] for agent in some if agent in reading.scores] for some in (new, old))
        if theirs and others:
            own = (reading.model == model) - (reading.model == usual)
            yield Observation(fmean(theirs) - fmean(others), own)
