"""Draws the models of a council whose roles share their calls between several: by the seed, agent by agent."""

from collections.abc import Mapping
from random import Random

from fleet.messages import Message, Phase

WRITING: frozenset[Phase] = frozenset({"propose", "revise", "synthesise"})


class RoleModels(Message, frozen=True, kw_only=True):
    """A role's models and their shares; `judge` is the one for calls that judge, null: whichever was drawn."""

    shares: dict[str, float]
    judge: str | None = None


class DrawnModels(Message, frozen=True, kw_only=True):
    """What one agent uses to write, and to judge."""

    writes: str
    judges: str

    def of(self, phase: Phase) -> str:
        """The model of a phase's calls."""
        return self.writes if phase in WRITING else self.judges


def draw(seed: int, role_of: Mapping[str, str], models: Mapping[str, RoleModels]) -> dict[str, DrawnModels]:
    """Agent -> its models, for agents whose role has several. No agent's draw depends on another's."""
    drawn: dict[str, DrawnModels] = {}
    for agent, role in role_of.items():
        if (of_role := models.get(role)) is not None:
            names = sorted(of_role.shares)
            weights = [of_role.shares[name] for name in names]
            (writes,) = Random(f"{seed}/model/{agent}").choices(names, weights)
            drawn[agent] = DrawnModels(writes=writes, judges=of_role.judge or writes)
    return drawn
