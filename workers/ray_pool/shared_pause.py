"""Divides one pause among several watchers who take turns: together they wait for as long as one would alone."""


class SharedPause:
    """A watcher that was not seen for `forget_after_s` does not count any more."""

    def __init__(self, forget_after_s: float) -> None:
        self._forget_after_s = forget_after_s
        self._seen: dict[str, float] = {}

    def share_s(self, watcher: str, pause_s: float, now_s: float) -> float:
        """How long this watcher waits. `now_s`: of any clock."""
        self._seen[watcher] = now_s
        self._seen = {name: at for name, at in self._seen.items() if now_s - at < self._forget_after_s}
        return pause_s / len(self._seen)
