"""Learns the powers of `fleet.deliberation.rating.chances`: how far its chances must be bent to come true.

Councils of known truth are played and judged. For each number of proposals the power is taken whose worst calibration
error is the least, over fair judges and over judges that share errors. Errors of the latter may be twice as large: what
reviewers of one model misjudge alike shows nowhere in their scores.
"""

from collections.abc import Mapping
from functools import partial

from fleet.bench.parallel import spread
from fleet.bench.quality.aggregation import Setting, calibration_error, played
from fleet.bench.quality.traits import FAIR, FAMILY
from fleet.deliberation.rating.chances import POWERS, raw_chances, variances
from fleet.deliberation.rating.fitting import fit
from fleet.deliberation.rating.judging import final_scores

WORLDS = {"fair": (FAIR, 0.05), "family": (FAMILY, 0.10)}
"""Traits, and the calibration error that is good enough."""
CANDIDATES = [step / 20 for step in range(8, 33)]

Judged = tuple[list[float], int]
"""Chances before the power, and which of them is truly the best's."""


def learn(count: int, seed: int, sizes: tuple[int, ...] = tuple(POWERS)) -> dict[int, tuple[float, dict[str, float]]]:
    """Number of proposals -> power, and the calibration error in each of `WORLDS`; of `count` councils each."""
    learnt = {}
    for size in sizes:
        judged = {
            name: spread(partial(_judged, Setting(traits, size, seed)), range(count))
            for name, (traits, _) in WORLDS.items()
        }
        power = min(
            CANDIDATES, key=lambda each: max(error / WORLDS[n][1] for n, error in _errors(judged, each).items())
        )
        learnt[size] = (power, _errors(judged, power))
    return learnt


def _judged(setting: Setting, number: int) -> Judged:
    council, state = played(setting, number)
    scores = final_scores(state)
    fitted = fit(scores)
    models = {agent: state.candidates[agent].proposal.model for agent in state.ranked_agents}
    among = list(fitted.quality)
    chances = raw_chances(fitted.quality, variances(fitted, scores, models, among), among)
    return list(chances.values()), list(chances).index(council.best(state))


def _errors(judged: Mapping[str, list[Judged]], power: float) -> dict[str, float]:
    return {name: round(calibration_error([_leader(each, power) for each in some]), 4) for name, some in judged.items()}


def _leader(judged: Judged, power: float) -> tuple[float, float]:
    """What is said of the leader, and whether it is the best."""
    raw, best = judged
    powered = [chance**power for chance in raw]
    leader = max(range(len(raw)), key=lambda index: raw[index])
    return powered[leader] / sum(powered), float(leader == best)
