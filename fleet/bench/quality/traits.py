"""Defines simulated agents: skill, noise and biases, with the reasons for the defaults.

Points are those of the scores, 0 … 10. Four sets are used: `FAIR` (judges that differ and err, but favour nothing),
`FAMILY` (the same, but half of what they misjudge they misjudge alike), `BIASED` (all biases at once, two models in the
council; a judge as consistent as GPT-4), and `WEAK` (the same with twice the position bias and half as much
self-preference again: a judge that keeps not half of its verdicts when the order is swapped, as weaker models do [2]).

| trait | fair | biased | why |
|---|---|---|---|
| `quality`, `quality_sd` | 6, 1.2 | same | assumed: samples of one model for one task, most of them passable |
| `solved_at` | 7 | same | assumed: about one first proposal in five solves its task |
| `leniency_sd` | 0.7 | same | raters differ in severity (Linacre 1989); no figure found for LLM judges: assumed |
| `taste_sd` | 0.8 | same | what a judge sees in a text each time it looks, right or wrong [1] |
| `shared_sd` | 0 | same | of what all judges of one model misjudge alike; `FAMILY` has as much of it as of own errors \
(arXiv:2506.07962) |
| `noise_sd` | 1.0 | same | per criterion and score: 0.6 over three; with taste an error of 1 point per review |
| `position_bias` | 0 | 1.0 | points from first to last place. Calibrated by the consistency of GPT-4 [2] |
| `position_spread` | 0 | 0.5 | standard deviation of that between judges; they differ widely [1], the size is assumed |
| `position_curve` | 2 | same | above 1: most of the effect at the first places. The core fits a curve of its own, and \
one effect for all judges: the simulation is deliberately not the core's model |
| `self_preference` | 0 | 1.0 | points for a text of the judge's own model: between GPT-4 and Claude [3] |
| `flattery` | 0 | 0.5 | points per standard deviation of how convincing a text sounds, which here has nothing to do \
with its quality [4]; the size is assumed. All judges share it, so no ranking can undo it |
| `critic_skill` | 0.5 | same | share of critiques that are right, see below |
| `deference` | 0.5 | 1.0 | share of wrong critiques that an author follows all the same, see below |
| `step` | 1.0 | same | points that a revision gains (loses) when all critiques it follows are right (wrong): assumed |
| `obedience` | 0.2 | same | share of judges that obey a proposal which asks for a 10 [5] |
| `reward_sd` | 1.0 | same | error of a reward model, in points: as that of a review (taste and noise); assumed. It \
shares nothing with judges but `flattery` |

1. Shi et al. 2024, arXiv:2406.07791: verdicts are stable in repetition, so most of a judge's error is no chance, and
   position bias varies widely between judges and tasks.
2. Zheng et al. 2023, arXiv:2306.05685: GPT-4 kept about 65 % of its verdicts when the order was swapped. That this is
   no rarity: Wang et al. 2023, arXiv:2305.17926, by order alone let Vicuna-13B beat ChatGPT on 66 of 80 questions.
3. Zheng et al. 2023: GPT-4 won 10 %, Claude 25 % more often before itself, here 0.6 and 1.5 points. That models know
   and favour their own texts: Panickssery et al. 2024, arXiv:2404.13076.
4. Sharma et al. 2023, arXiv:2310.13548: convincing texts are preferred to correct ones a non-negligible share of times.
5. Hidden sentences raised acceptance by 20 % (three models, doi:10.31234/osf.io/zxuwf); no rate per judge was found.

Rounds are the weakest assumption. A revision gains `step · (critic_skill − (1 − critic_skill) · deference)` on
average: 0.25 points for fair agents, exactly nothing for biased ones. Nothing is what the literature on debate finds:
it is a martingale, voting makes most of the gain (Choi et al. 2025, arXiv:2508.17536), and it does not reliably beat
sampling and voting (Smit et al. 2023, arXiv:2311.17371). So the benchmark also reports how much a round would have
to gain to be worth its tokens. That the two models of the biased council are equally good is generous to mixing:
in practice it often lowers the average quality (Li et al. 2025, arXiv:2502.00674).
"""

from dataclasses import dataclass, replace
from random import Random

from fleet.deliberation.rating.scoring import DEFAULT_RUBRIC


@dataclass(frozen=True, slots=True)
class Traits:
    """Of all agents of a council; the module's table has units and reasons."""

    quality: float = 6.0
    quality_sd: float = 1.2
    solved_at: float = 7.0
    leniency_sd: float = 0.7
    taste_sd: float = 0.8
    shared_sd: float = 0.0
    noise_sd: float = 1.0
    position_bias: float = 0.0
    position_spread: float = 0.0
    position_curve: float = 2.0
    self_preference: float = 0.0
    flattery: float = 0.0
    critic_skill: float = 0.5
    deference: float = 0.5
    step: float = 1.0
    obedience: float = 0.2
    reward_sd: float = 1.0
    models: tuple[str, ...] = ("model-a",)


FAIR = Traits()
FAMILY = replace(FAIR, taste_sd=0.37, shared_sd=0.71)
BIASED = Traits(
    position_bias=1.0,
    position_spread=0.5,
    self_preference=1.0,
    flattery=0.5,
    deference=1.0,
    models=("model-a", "model-b"),
)
WEAK = replace(BIASED, position_bias=2.0, position_spread=1.0, self_preference=1.5)


@dataclass(frozen=True, slots=True)
class Text:
    """What a judge reacts to in a proposal. `convincing` in standard deviations."""

    quality: float
    convincing: float
    model: str
    misjudged: tuple[tuple[str, float], ...] = ()
    """By model: points that all its judges see too much in it."""


class Judge:
    """One agent's eye: what it sees in a text at a place. Deterministic but for `noise`."""

    def __init__(self, traits: Traits, model: str, rng: Random) -> None:
        self._traits = traits
        self._model = model
        self._rng = rng
        self._leniency = rng.gauss(0, traits.leniency_sd)
        self._position_bias = rng.gauss(traits.position_bias, traits.position_spread)
        self._taste: dict[Text, float] = {}

    def sees(self, text: Text, place: int, shown: int) -> float:
        """Points before noise. `place` counts from 0."""
        traits = self._traits
        if text not in self._taste:
            self._taste[text] = self._rng.gauss(0, traits.taste_sd)
        seen = text.quality + self._leniency + self._taste[text] + traits.flattery * text.convincing
        seen += dict(text.misjudged).get(self._model, 0.0)
        if text.model == self._model:
            seen += traits.self_preference
        if shown > 1:
            seen += self._position_bias * (1 - place / (shown - 1)) ** traits.position_curve
        return seen

    def noise(self) -> float:
        """Of one criterion."""
        return self._rng.gauss(0, self._traits.noise_sd)

    def impression(self, text: Text, place: int, shown: int) -> float:
        """What a choice is made by: all criteria together, not rounded."""
        total = sum(DEFAULT_RUBRIC.values())
        noise = sum(weight * self.noise() for weight in DEFAULT_RUBRIC.values()) / total
        return self.sees(text, place, shown) + noise


def new_text(traits: Traits, model: str, rng: Random) -> Text:
    """A first proposal."""
    quality = min(10.0, max(0.0, rng.gauss(traits.quality, traits.quality_sd)))
    convincing = rng.gauss(0, 1)
    shared = tuple((judge, rng.gauss(0, traits.shared_sd)) for judge in traits.models) if traits.shared_sd else ()
    return Text(quality, convincing, model, shared)


def consistency(traits: Traits, *, pairs: int, seed: int) -> float:
    """How often a judge that compares two proposals of a council in both orders keeps its verdict."""
    rng = Random(f"consistency/{seed}")
    kept = 0
    for _ in range(pairs):
        judge = Judge(traits, rng.choice(traits.models), rng)
        one, other = (new_text(traits, rng.choice(traits.models), rng) for _ in range(2))
        first = judge.impression(one, 0, 2) > judge.impression(other, 1, 2)
        second = judge.impression(one, 1, 2) > judge.impression(other, 0, 2)
        kept += first == second
    return kept / pairs
