"""Works a published `deliberation.completed` out again from its reviews, by the formulas in subjects.md alone.

Nothing of the fleet's own arithmetic is imported. `deviations` names every number that comes out otherwise.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

Entry = dict[str, Any]
POWERS = {2: 0.45, 3: 0.8, 5: 1.1, 8: 1.15, 12: 1.3}
MOST_ERROR = 1.8
DIGITS_6, DIGITS_4 = 3e-6, 1.1e-4
"""Half a last digit, and what iterating until nothing moves by 10⁻⁶ leaves open."""


@dataclass(frozen=True)
class Row:
    """One score: by whom, for which text, at which place of which reading."""

    reviewer: str
    author: str
    score: float
    place: tuple[int, int]
    same_model: float
    points: tuple[float, ...] = ()


def deviations(event: Entry) -> list[str]:
    """What a result says otherwise than its own reviews do."""
    return [*_ranking(event), *_rounds(event), *_usage(event), *_counts(event)]


# --- scores -----------------------------------------------------------------------------------------------------------


def council(event: Entry) -> list[Entry]:
    """The results without shadows, in agent order: that of their numbers within the roles' turns."""
    return sorted((entry for entry in event["results"] if not entry["shadow"]), key=lambda entry: _seat(event, entry))


def _seat(event: Entry, entry: Entry) -> int:
    roles = event["task"]["options"]["roles"] or [event["task"]["role"]]
    taken: Counter[str] = Counter()
    for seat in range(event["total_agents"]):
        role = roles[seat % len(roles)].lower()
        taken[role] += 1
        if entry["agent_id"] == f"agent-{role}-{taken[role]:03d}":
            return seat
    raise AssertionError(entry["agent_id"])


def weights(event: Entry) -> dict[str, float]:
    """A rubric in prose is one criterion; a name of more than 64 bytes is `c<its place>` in reviews."""
    rubric = event["task"]["constraints"]["rubric"]
    if isinstance(rubric, str):
        return {"overall": 1.0}
    return {name if len(name.encode()) <= 64 else f"c{at}": each for at, (name, each) in enumerate(rubric.items(), 1)}


def mean_of(event: Entry, scores: Mapping[str, float]) -> float | None:
    rubric = weights(event)
    total = sum(rubric[name] for name in scores if name in rubric)
    return sum(rubric[name] * score for name, score in scores.items() if name in rubric) / total if total else None


def given(event: Entry, review: Entry) -> float | None:
    if review["phase"] == "critique":
        return mean_of(event, review["scores"])
    if review.get("reward") is not None:
        return None
    return mean_of(event, {name: each["score"] for name, each in review["criteria"].items()})


def points_of(event: Entry, review: Entry) -> tuple[float, ...]:
    """What it gave by criterion."""
    if review["phase"] == "critique":
        told = review["scores"]
    else:
        told = {name: each["score"] for name, each in review["criteria"].items()}
    return tuple(point for name, point in told.items() if name in weights(event))


def rows_of(event: Entry, kept: Any) -> list[Row]:
    """Of the reviews that are `kept`; what a reviewer scored twice is one, the mean, at the first place."""
    model = models_of(event)
    found: dict[tuple[str, str], list[Row]] = {}
    for entry in council(event):
        for review in entry["reviews"]:
            score = given(event, review) if kept(review) else None
            if score is not None and review.get("reward") is None:
                reviewer, author = review["reviewer_id"], entry["agent_id"]
                same = float(model[reviewer] == model[author])
                points = points_of(event, review)
                row = Row(reviewer, author, score, (review["reading"], review["position"]), same, points)
                found.setdefault((reviewer, author), []).append(row)
    rows = [_mean(min(rows, key=lambda row: row.place), rows) for rows in found.values()]
    return [*rows, *(row for judge in sorted(rewards_of(event, kept)) for row in _of_judge(event, kept, judge, rows))]


def models_of(event: Entry) -> dict[str, str]:
    """By reviewer; a judge's is that of its first reward, in agent order."""
    models = {entry["agent_id"]: entry["proposal"]["model"] for entry in event["results"]}
    for entry in council(event):
        for review in entry["reviews"]:
            if review.get("reward") is not None:
                models.setdefault(review["reviewer_id"], review["reward"]["model"])
    return models


def rewards_of(event: Entry, kept: Any) -> dict[str, dict[str, Entry]]:
    """By judge, and by author."""
    rewards: dict[str, dict[str, Entry]] = {}
    for entry in council(event):
        for review in filter(kept, entry["reviews"]):
            if review.get("reward") is not None:
                rewards.setdefault(review["reviewer_id"], {})[entry["agent_id"]] = review["reward"]
    return rewards


def _of_judge(event: Entry, kept: Any, judge: str, rows: Sequence[Row]) -> list[Row]:
    """Rewards on the scale of the council's scores, each of the model that gave it."""
    scored = {row.author for row in rows}
    told = {author: reward for author, reward in rewards_of(event, kept)[judge].items() if author in scored}
    values = np.array([reward["value"] for reward in told.values()])
    if len(values) < 2 or np.ptp(values) <= abs(values).max() / 256:
        return []
    middle = fmean(fmean(row.score for row in rows if row.author == author) for author in told)
    own = [[row.score for row in rows if row.reviewer == each] for each in {row.reviewer for row in rows}]
    squares = 4 * 2 + sum(float(np.var(scores)) * len(scores) for scores in own)
    spread = (squares / (4 + sum(len(scores) - 1 for scores in own))) ** 0.5
    scores = middle + spread * (values - values.mean()) / values.std(ddof=1)
    model = models_of(event)
    return [
        Row(judge, author, round(min(10.0, max(0.0, score)), 4), (1, 0), float(reward["model"] == model[author]))
        for (author, reward), score in zip(told.items(), scores.tolist(), strict=True)
    ]


def pooled(rows: Sequence[Row], same: Mapping[str, str]) -> list[Row]:
    """Identical texts are one, at the place of the one that was shown first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.reviewer, same.get(row.author, row.author)), []).append(row)
    return [_mean(min(group, key=lambda row: row.place), group, author=author) for (_, author), group in groups.items()]


def _mean(first: Row, rows: Sequence[Row], author: str | None = None) -> Row:
    points = tuple(point for row in rows for point in row.points)
    score = fmean(row.score for row in rows)
    return Row(first.reviewer, author or first.author, score, first.place, first.same_model, points)


def final(review: Entry) -> bool:
    """The score phase's reviews, or the critiques that were the verdict."""
    return bool(review["phase"] == "score" or review["score"] is not None)


class Adjustment:
    """The turns of subjects.md."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.authors, self.reviewers = (sorted({getattr(row, of) for row in rows}) for of in ("author", "reviewer"))
        self.at_place = [[one.place == row.place for one in rows] for row in rows]
        same, scores = np.array([row.same_model for row in rows]), np.array([row.score for row in rows])
        self.y = same - [same[at].mean() for at in self.at_place]
        first_reviewer = len(self.authors)
        design = np.zeros((len(rows), first_reviewer + len(self.reviewers) + 1))
        for number, row in enumerate(rows):
            design[number, self.authors.index(row.author)] = 1
            design[number, first_reviewer + self.reviewers.index(row.reviewer)] = 1
        design[:, -1] = self.y
        freedom = len(rows) - first_reviewer - len({row.place for row in rows}) + 1 - len(self.reviewers)
        freedom -= bool(np.any(abs(self.y) > 1e-6))
        error, spread, counted, before = 1.0, 1.0, scores, None
        for _ in range(100):
            weight = error / spread
            shrink = [0.0] * first_reviewer + [weight] * len(self.reviewers) + [error / 0.49]
            inverse = np.linalg.inv(design.T @ design + np.diag(shrink))
            solution = inverse @ design.T @ counted
            residual = scores - design @ solution
            residual -= [residual[at].mean() for at in self.at_place]
            counted = scores - residual + np.clip(residual, -1.345 * error**0.5, 1.345 * error**0.5)
            now = np.array([error, spread, *solution[first_reviewer:]])
            if before is not None and abs(now - before).max() < 1e-6:
                break
            before = now
            of_reviewers = slice(first_reviewer, -1)
            trace = np.trace(inverse[of_reviewers, of_reviewers])
            error = (4 + (residual**2).sum()) / (4 + max(0.0, freedom + weight * trace))
            spread = (2 * 0.15 + (solution[of_reviewers] ** 2).sum() + error * trace) / (2 + len(self.reviewers))
        self.error, self.weight, self.inverse, self.same_model = error, error / spread, inverse, solution[-1]
        self.leniency = dict(zip(self.reviewers, solution[first_reviewer:-1], strict=True))
        self.adjusted = {
            (row.reviewer, row.author): count - self.leniency[row.reviewer] - self.same_model * y
            for row, count, y in zip(rows, counted, self.y, strict=True)
        }

    def quality(self, author: str) -> float:
        return fmean(value for (_, of), value in self.adjusted.items() if of == author)

    def scores(self) -> dict[str, float]:
        """Held within 0 … 10, before penalties."""
        return {author: round(max(0.0, min(10.0, self.quality(author))), 4) for author in self.authors}

    @property
    def shared(self) -> float:
        """Variance that reviewers of one model likely share."""
        return max(0.1, 1 - self.error)

    def reviewers_of(self, author: str) -> list[str]:
        return [row.reviewer for row in self.rows if row.author == author]

    def concentration(self, author: str, model: Mapping[str, str]) -> float:
        """Σ (share of each model in its reviewers)²."""
        run = Counter(model[reviewer] for reviewer in self.reviewers_of(author))
        return sum((count / run.total()) ** 2 for count in run.values())

    def effective_reviewers(self, model: Mapping[str, str]) -> float:
        return fmean(
            (self.error + self.shared)
            / (self.error / len(self.reviewers_of(author)) + self.shared * self.concentration(author, model))
            for author in self.authors
        )

    def p_best(self, among: Sequence[str], model: Mapping[str, str]) -> dict[str, float]:
        """Integrated another way: the same on any fine grid."""
        at = [self.authors.index(author) for author in among]
        covariance = self.error * self.inverse[np.ix_(at, at)]
        size = len(among)
        common = (covariance.sum() - np.trace(covariance)) / (size * (size - 1)) if size > 1 else 0.0
        normal = [
            NormalDist(
                self.quality(author),
                (max(0.01, covariance[n, n] - common) + self.shared * self.concentration(author, model)) ** 0.5,
            )
            for n, author in enumerate(among)
        ]
        chances = []
        for own in normal:
            xs = [own.mean + own.stdev * (-4.5 + 9 * step / 60) for step in range(61)]
            chances.append(
                sum(own.pdf(x) * np.prod([other.cdf(x) for other in normal if other is not own]) for x in xs)
                * own.stdev
            )
        power = POWERS[max((each for each in POWERS if each <= size), default=2)]
        powered = np.array(chances) ** power
        return dict(zip(among, powered / powered.sum(), strict=True))


# --- obedience --------------------------------------------------------------------------------------------------------


def obedient(
    rows: Sequence[Row], penalty: Mapping[str, float], faulty: Collection[str]
) -> dict[tuple[str, str], float]:
    """The full scores that decide alone and have all the signs of subjects.md, and what counts for them."""

    def leaders(ours: Adjustment) -> set[str]:
        sound = [author for author in ours.authors if author not in faulty] or ours.authors
        score = {author: round(max(0.0, ours.scores()[author] - penalty.get(author, 0.0)), 4) for author in sound}
        return {author for author in sound if round(max(score.values()) - score[author], 4) <= 0.005}

    found = {}
    for row in rows:
        others = [other for other in rows if other is not row]
        told = [other for other in others if other.points]
        own: dict[str, list[float]] = {}
        for other in told:
            own.setdefault(other.reviewer, []).append(other.score)
        mine, points = own.get(row.reviewer, []), [point for other in told for point in other.points]
        below = [point for point in points if point < 9.5]
        readers = sum(other.author == row.author for other in rows)
        if row.score < 9.9 or not row.points or readers < 4 or len(mine) < 2 or row.score - max(mine) < 1:
            continue
        spread = fmean(float(np.var(each, ddof=1)) for each in own.values() if len(each) > 1)
        if float(np.var(mine, ddof=1)) > 3 * spread or len({round(point) for point in below}) < 5:
            continue
        if len(points) - len(below) > 0.1 * len(points) or row.author not in leaders(Adjustment(rows)):
            continue
        value = usual(row, rows)
        ours = Adjustment(counted(rows, {(row.reviewer, row.author): value}))
        if (
            row.author not in leaders(ours)
            and ours.error <= MOST_ERROR
            and row.score - value > ours.error * readers / 3
        ):
            found[row.reviewer, row.author] = value
    return found


def usual(row: Row, rows: Sequence[Row]) -> float:
    """The score at which the adjusted one is the quality plus what the place does to the others, by bisection."""

    def off(value: float) -> float:
        ours = Adjustment(counted(rows, {(row.reviewer, row.author): value}))
        beside = [other for other in rows if other.place == row.place and other is not row]
        place = [ours.adjusted[other.reviewer, other.author] - ours.quality(other.author) for other in beside]
        return ours.quality(row.author) + (fmean(place) if place else 0.0) - ours.adjusted[row.reviewer, row.author]

    low, high = -10.0, 20.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) > 0 else (low, middle)
    return round(low, 4)


def counted(rows: Sequence[Row], instead: Mapping[tuple[str, str], float]) -> list[Row]:
    return [replace(row, score=instead.get((row.reviewer, row.author), row.score)) for row in rows]


# --- the order --------------------------------------------------------------------------------------------------------


def faulty(entry: Entry) -> bool:
    return any(check["status"] == "failed" for name, check in entry["checks"].items() if name != "requirements")


def penalty_of(event: Entry, entry: Entry) -> float:
    """A point for each failed check, two for the share of the requirements that more than half say are missed."""
    wanted = len(event["task"]["constraints"]["requirements"])
    answers = [review["requirements_met"] for review in entry["reviews"] if len(review["requirements_met"]) == wanted]
    missed = sum(2 * sum(not answer[n] for answer in answers) > len(answers) for n in range(wanted) if answers)
    failed = sum(check["status"] == "failed" for name, check in entry["checks"].items() if name != "requirements")
    return round(failed + (2 * missed / wanted if wanted else 0), 4)


def text_hash(entry: Entry) -> str:
    return hashlib.sha256(entry["proposal"]["content"].encode()).hexdigest()


def borda(rows: Sequence[Row]) -> dict[str, float]:
    points: dict[str, list[float]] = {}
    for one in rows:
        for other in rows:
            if one.reviewer == other.reviewer and one.author != other.author:
                points.setdefault(one.author, []).append((1 + np.sign(round(one.score - other.score, 9))) / 2)
    return {author: fmean(each) for author, each in points.items()}


def wins_of(event: Entry, tied: Collection[str], same: Mapping[str, str]) -> dict[str, float]:
    """Whom a reviewer chose in both orders gets its point, else both get half."""
    chosen: dict[tuple[str, frozenset[str]], list[str]] = {}
    for call in event["comparisons"]:
        if call["phase"] == "compare" and set(call["order"]) <= set(tied):
            pair = (call["reviewer_id"], frozenset(call["order"]))
            chosen.setdefault(pair, []).append(same.get(call["chosen"], call["chosen"]))
    wins = dict.fromkeys(tied, 0.0)
    for (_, pair), verdicts in chosen.items():
        for author in pair:
            wins[author] += (author == verdicts[0]) if verdicts == [verdicts[0]] * 2 else 0.5
    return wins


def agreement(rows: Sequence[Row], first: str, second: str) -> float:
    cards: dict[str, dict[str, float]] = {}
    for row in rows:
        cards.setdefault(row.reviewer, {})[row.author] = row.score
    both = [(card[first], card[second]) for card in cards.values() if first in card and second in card]
    return fmean((1 + np.sign(round(one - other, 9))) / 2 for one, other in both) if both else 0.5


def _ranking(event: Entry) -> Iterator[str]:
    entries, selection = council(event), event["task"]["options"]["selection"]
    same = {entry["agent_id"]: entry["same_as"] for entry in entries if entry["same_as"]}
    originals = [entry for entry in entries if entry["agent_id"] not in same]
    for entry in entries:
        yield from _compare(f"{entry['agent_id']}.penalty", entry["penalty"], penalty_of(event, entry), 1e-9)
    rows = pooled(rows_of(event, final), same)
    match selection:
        case "vote":
            order = yield from _by_votes(event, originals, same)
        case "checks":
            order = sorted(originals, key=lambda entry: (entry["penalty"], text_hash(entry)))
            best = [e["agent_id"] for e in originals if e["penalty"] == order[0]["penalty"]]
            yield from _decided(event, best if len(best) > 1 else [], "text_hash" if len(best) > 1 else "checks")
        case _:
            penalty = {entry["agent_id"]: entry["penalty"] for entry in originals}
            found = obedient(rows, penalty, [entry["agent_id"] for entry in originals if faulty(entry)])
            kept = counted(rows, (yield from _instead(event, same, found)))
            yield from _scores(event, originals, same, kept)
            order = yield from _by_score(event, originals, same, kept)
    behind = [
        e for entry in order for e in (entry, *(c for c in entries if same.get(c["agent_id"]) == entry["agent_id"]))
    ]
    ranked = [entry["agent_id"] for entry in event["results"] if not entry["shadow"]]
    yield from _compare("order", ranked, [entry["agent_id"] for entry in behind])
    yield from _compare("winner_id", event["winner_id"], ranked[0])
    yield from _compare("ranks", [entry["rank"] for entry in event["results"]], [*range(1, len(event["results"]) + 1)])
    by_id = {entry["agent_id"]: entry for entry in entries}
    for copy, original in same.items():
        yield from _compare(f"{copy}.score", by_id[copy]["score"], by_id[original]["score"])
        yield from _compare(f"{copy}.p_best", by_id[copy]["p_best"], None)


def _instead(event: Entry, same: Mapping[str, str], found: Mapping[tuple[str, str], float]) -> Any:
    """What counts for a score, as told where that is right."""
    told = dict(found)
    for entry in council(event):
        author = same.get(entry["agent_id"], entry["agent_id"])
        for review in entry["reviews"]:
            key, value = (review["reviewer_id"], author), review.get("counted_as")
            ours = found.get(key) if final(review) and review["score"] is not None else None
            yield from _compare(f"{author} by {review['reviewer_id']}: counted_as", value, ours, DIGITS_4)
            if value is not None:
                told[key] = value
    return told


def _scores(event: Entry, originals: Sequence[Entry], same: Mapping[str, str], rows: Sequence[Row]) -> Iterator[str]:
    """Reviews, the adjustment, each score, its chance and its Borda points."""
    ranking, model = event["ranking"], models_of(event)
    equated = {(row.reviewer, row.author): row.score for row in rows_of(event, final) if row.place[1] == 0}
    for entry in council(event):
        for review in filter(final, entry["reviews"]):
            name = f"{entry['agent_id']} by {review['reviewer_id']}"
            if review.get("reward") is not None:
                value = equated.get((review["reviewer_id"], entry["agent_id"]))
                yield from _compare(f"{name}: score", review["score"], value, 1.1e-4)
            else:
                yield from _compare(f"{name}: score", review["score"], given(event, review), 1e-9)
    if not rows:
        yield from _compare("effective_reviewers", ranking["effective_reviewers"], None)
        yield from (f"{entry['agent_id']}.score" for entry in originals if entry["score"] is not None)
        return
    ours = Adjustment(rows)
    yield from _compare("leniency", ranking["leniency"], ours.leniency, DIGITS_6)
    yield from _compare("effects", ranking["effects"], {"same_model": ours.same_model}, DIGITS_6)
    yield from _compare("leniency_weight", ranking["leniency_weight"], ours.weight, DIGITS_6)
    yield from _compare("error", ranking["error"], ours.error, DIGITS_6)
    yield from _compare("effective_reviewers", ranking["effective_reviewers"], ours.effective_reviewers(model), 0.0051)
    for entry in council(event):
        author = same.get(entry["agent_id"], entry["agent_id"])
        for review in filter(final, entry["reviews"]):
            adjusted = ours.adjusted.get((review["reviewer_id"], author)) if review["score"] is not None else None
            yield from _compare(f"{author} by {review['reviewer_id']}", review["adjusted"], adjusted, DIGITS_6)
    points, quality = borda(rows), {author: ours.quality(author) for author in ours.authors}
    sound = [e["agent_id"] for e in originals if e["agent_id"] in quality and not faulty(e)] or ours.authors
    chances = dict.fromkeys(ours.authors, 0.0) | ours.p_best(sound, model) if len(quality) > 1 else {}
    for entry in originals:
        author = entry["agent_id"]
        score = max(0.0, min(10.0, quality[author]) - entry["penalty"]) if author in quality else None
        yield from _compare(f"{author}.score", entry["score"], score, DIGITS_4)
        yield from _compare(f"{author}.p_best", entry["p_best"], chances.get(author), DIGITS_4)
        yield from _compare(f"{author}.borda", entry["borda"], points.get(author), 5.1e-5)
        if entry["borda"] is not None and round(entry["borda"], 4) != entry["borda"]:
            yield f"{author}.borda has more than 4 digits"


def _by_score(event: Entry, originals: Sequence[Entry], same: Mapping[str, str], rows: Sequence[Row]) -> Any:
    """The order by the published scores; yields what is told otherwise of how it came about."""
    options = event["task"]["options"]
    scored = [entry for entry in originals if entry["score"] is not None]
    unscored = [entry for entry in originals if entry["score"] is None]
    if not scored:
        yield from _decided(event, [], "agent_order")
        yield from _compare("confidence", event["confidence"], 0.0 if len(originals) > 1 else None)
        return unscored
    first_tier = [entry for entry in scored if not faulty(entry)] or scored
    best = max(entry["score"] for entry in first_tier)
    margin = max(0.005, options["tie_margin"])
    tied = [entry for entry in first_tier if round(best - entry["score"], 4) <= margin]
    names = [entry["agent_id"] for entry in tied]
    wins = wins_of(event, names, same)
    rules = {
        "comparison": lambda entry: -wins.get(entry["agent_id"], 0.0),
        "score": lambda entry: 0.0 if entry in tied and options["tie_margin"] <= 0.005 else -entry["score"],
        "borda": lambda entry: -(entry["borda"] or 0.0),
        "text_hash": text_hash,
    }
    order = sorted(
        scored,
        key=lambda entry: (entry not in first_tier, entry not in tied, *(rule(entry) for rule in rules.values())),
    )
    decided = "checks" if order[0]["score"] < max(entry["score"] for entry in scored) else "score"
    if len(tied) > 1:
        decided = next((name for name, rule in rules.items() if rule(order[0]) != rule(order[1])), "agent_order")
    chosen = (event["selection"] or {}).get("chosen")
    order += unscored
    if chosen is not None:
        order.sort(key=lambda entry: entry["agent_id"] != chosen)
        decided = "architect"
    yield from _decided(event, names if len(names) > 1 else [], decided)
    first, second = (*(entry["score"] for entry in order), None)[:2]
    lead = round(first - second, 4) if first is not None and second is not None else None
    yield from _compare("margin", event["margin"], lead, 1e-9)
    if len(order) > 1:
        rows = [row for row in rows if row.place[1] > 0]
        share = min(1.0, len(rows) / (len(order) * (len(order) - 1)))
        sure = share * agreement(rows, order[0]["agent_id"], order[1]["agent_id"])
        yield from _compare("confidence", event["confidence"], sure, 5.1e-5)
    return order


def _by_votes(event: Entry, originals: Sequence[Entry], same: Mapping[str, str]) -> Any:
    ballots = [call for call in event["comparisons"] if call["phase"] == "vote"]
    votes = Counter(same.get(call["chosen"], call["chosen"]) for call in ballots)
    for entry in originals:
        yield from _compare("votes", entry["votes"], votes[entry["agent_id"]] if ballots else None)
    if not ballots:
        yield from _decided(event, [], "agent_order")
        return list(originals)
    first_tier = [entry for entry in originals if not faulty(entry)] or list(originals)
    most = max(votes[entry["agent_id"]] for entry in first_tier)
    clean = min(entry["penalty"] for entry in first_tier if votes[entry["agent_id"]] == most)
    tied = [entry["agent_id"] for entry in first_tier if votes[entry["agent_id"]] == most and entry["penalty"] == clean]
    wins = wins_of(event, tied, same)
    rules = {
        "votes": lambda entry: -votes[entry["agent_id"]],
        "checks": lambda entry: entry["penalty"],
        "comparison": lambda entry: -wins.get(entry["agent_id"], 0.0),
        "text_hash": text_hash,
    }
    order = sorted(originals, key=lambda entry: (entry not in first_tier, *(rule(entry) for rule in rules.values())))
    decided = "votes"
    if len(order) > 1:
        decided = next(name for name, rule in rules.items() if rule(order[0]) != rule(order[1]))
        first, second = (votes[entry["agent_id"]] for entry in order[:2])
        if first != second and first < max(votes.values()):  # A better one stands behind since it has a fault.
            decided = "checks"
        others = [call for call in ballots if call["reviewer_id"] != order[0]["agent_id"]]
        share = fmean(same.get(call["chosen"], call["chosen"]) == order[0]["agent_id"] for call in others or [{}])
        sure = min(1.0, len(ballots) / len(order)) * (share if len(order) > 2 else 0.5)
        yield from _compare("margin", event["margin"], float(first - second))
        yield from _compare("confidence", event["confidence"], sure, 5.1e-5)
    yield from _decided(event, tied if len(tied) > 1 else [], decided)
    return order


def _decided(event: Entry, tied: Sequence[str], decided_by: str) -> Iterator[str]:
    yield from _compare("tied", sorted(event["ranking"]["tied"]), sorted(tied))
    yield from _compare("decided_by", event["ranking"]["decided_by"], decided_by)


# --- rounds, tokens, counts -------------------------------------------------------------------------------------------


def _rounds(event: Entry) -> Iterator[str]:
    scored = any(review["phase"] == "score" for entry in council(event) for review in entry["reviews"])
    for report in event["rounds"]:
        number = report["round"]
        after = _scores_of_round(event, number + 1)
        if number == event["rounds_run"] and scored:
            after = _plain(event, lambda review: review["phase"] == "score")
        yield from _round(event, report, "before", _scores_of_round(event, number))
        yield from _round(event, report, "after", after)
        leaders = report["leader_before"], report["leader_after"]
        changed = None if None in leaders else leaders[0] != leaders[1]
        yield from _compare(f"round {number}: winner_changed", report["winner_changed"], changed)
    for entry in council(event):
        yield from _similarities(event, entry)


def _scores_of_round(event: Entry, number: int) -> Any:
    return _plain(event, lambda review: review["phase"] == "critique" and review["round"] == number)


def _plain(event: Entry, kept: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Scores and Borda points without penalties, each text for itself."""
    rows = rows_of(event, kept)
    rows = counted(rows, obedient(rows, {}, ()))
    return (Adjustment(rows).scores(), borda(rows)) if rows else ({}, {})


def _round(event: Entry, report: Entry, side: str, computed: Any) -> Iterator[str]:
    scores, points = computed
    told, name = report[f"scores_{side}"], f"round {report['round']}: {side}"
    agents = {entry["agent_id"]: entry for entry in council(event)}
    yield from _compare(name, told, {agent: scores.get(agent) for agent in agents}, DIGITS_4)
    known = {agent: score for agent, score in told.items() if score is not None}
    leader = min(
        known,
        key=lambda agent: (
            round(max(known.values()) - known[agent], 4) > 0.005,
            -round(points.get(agent, 0.0), 4),
            text_hash(agents[agent]),
        ),
        default=None,
    )
    yield from _compare(f"{name}: leader", report[f"leader_{side}"], leader)


def _similarities(event: Entry, entry: Entry) -> Iterator[str]:
    texts = [*(each["content"] for each in entry["earlier"]), entry["proposal"]["content"]]
    declined = {each["round"] for each in entry["declined"]}
    moves = pairwise(texts)
    for report in event["rounds"]:
        told = report["similarity"].get(entry["agent_id"])
        if told is not None:
            computed = 1.0 if report["round"] in declined else _dice(*next(moves))
            yield from _compare(f"{entry['agent_id']}: similarity", told, computed, 5.1e-5)
    yield from (f"{entry['agent_id']}: a text that no round tells of" for _ in moves)


def _dice(before: str, after: str) -> float:
    one, other = (
        Counter(pairwise(words) if len(words) > 1 else words) for words in (t.lower().split() for t in (before, after))
    )
    return 2 * (one & other).total() / (one.total() + other.total())


def _usage(event: Entry) -> Iterator[str]:
    by_model = event["usage_by_model"].values()
    for kind in ("prompt_tokens", "completion_tokens", "cached_tokens", "estimated_tokens"):
        told = [model[kind] for model in by_model if model[kind] is not None]
        yield from _compare(f"usage.{kind}", event["usage"][kind], sum(told) if told or not by_model else None)
    costs = [model["cost"] for model in by_model]
    cost = None if not costs or None in costs else round(sum(costs), 9)
    cost = 0.0 if event.get("cached_from") else cost
    yield from _compare("cost", event["cost"], cost, 1.1e-9)
    yield from _compare("usage.failed_calls", event["usage"]["failed_calls"], len(event["failed_agents"]))


def _counts(event: Entry) -> Iterator[str]:
    entries = council(event)
    yield from _compare("successful_responses", event["successful_responses"], len(entries))
    yield from _compare("failed_responses", event["failed_responses"], event["total_agents"] - len(entries))
    yield from _compare("missing", len(event["missing"]), event["total_agents"] - len(entries))
    if (event["missing"] or event["failed_agents"]) and not event["degraded"]:
        yield "degraded"
    for entry in entries:
        yield from _compare("revisions", entry["proposal"]["revisions"], len(entry["earlier"]))
    pair = (event["winner_id"], "synthesis")
    asked = [call for call in event["comparisons"] if set(call["order"]) == set(pair)]
    if event["synthesis"] is not None:
        wins = wins_of(event, pair, {})
        yield from _compare("better", event["synthesis"]["better"], wins[pair[1]] > wins[pair[0]] if asked else None)


def _compare(name: str, told: Any, computed: Any, within: float = 0.0) -> Iterator[str]:
    if not _alike(told, computed, within):
        yield f"{name}: {told} is told, {computed} comes out"


def _alike(told: Any, computed: Any, within: float) -> bool:
    if isinstance(told, dict) and isinstance(computed, dict):
        return told.keys() == computed.keys() and all(_alike(told[key], computed[key], within) for key in told)
    if told is None or computed is None or isinstance(told, str | list | bool):
        return bool(told == computed)
    return abs(told - computed) <= within
