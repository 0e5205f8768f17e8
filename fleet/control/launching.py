"""Says what a dispatcher needs of who launches its workers, and what it observes of them."""

from typing import Protocol

from fleet.observability.health import Observation


class Launcher(Protocol):
    """Launches, sizes and supervises the workers. `fleet.local.launcher.LauncherProcess` is the real one."""

    async def start(self) -> None:
        """Returns once workers take calls: all, or after a while those that there are. Where there may be none, at
        once."""

    async def stop(self) -> None:
        """Stops supervising; the workers go on for other dispatchers."""

    def resize(self, wanted: int) -> None:
        """So many workers are to run. Others end once their calls have ended. May be called again with the same."""

    def answering(self) -> int | None:
        """How many workers have answered lately; None while not even Ray is known to answer."""


def ray(launcher: Launcher) -> Observation:
    """Whether Ray answers."""
    answers = launcher.answering() is not None
    return Observation(answers, "" if answers else "Ray has not answered lately, or not yet")


def workers(launcher: Launcher, wanted: int, lowest: int) -> Observation:
    """Whether workers answer: one is enough, and none where there may be none. Then a request waits, and brings one."""
    answering = launcher.answering() or 0
    detail = "" if answering >= wanted else f"{answering} of {wanted} workers answer"
    return Observation(answering > 0 or lowest == 0, detail)
