"""Stands in for a dispatcher's launcher of workers: remembers what it is told, and says what a test wants it to say."""


class ToldLauncher:
    """A `fleet.control.launching.Launcher`."""

    def __init__(self, answering: int = 1) -> None:
        self.wanted: list[int] = []
        self.now_answering = answering

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def resize(self, wanted: int) -> None:
        if self.wanted[-1:] != [wanted]:
            self.wanted.append(wanted)

    def answering(self) -> int:
        return self.now_answering
