"""Which model server takes a call: the one with the fewest open calls from this process."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct
from yarl import URL

from fleet.errors import AgentCallError

COOL_DOWN_S = 2.0


class Card(Struct, frozen=True):
    """A model as an endpoint lists it; `window` in tokens, None where it does not say."""

    id: str
    window: int | None


class Endpoint:
    """One server. `models` None: not asked yet."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = str(URL(url).with_user(None))
        """Without credentials: for errors and logs."""
        self.open_calls = 0
        self.cooling_until = 0.0
        self.models: tuple[Card, ...] | None = None
        self.counts_tokens = True

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Counts one open call."""
        self.open_calls += 1
        try:
            yield
        finally:
            self.open_calls -= 1

    def lacks(self, model: str | None) -> bool:
        """Whether this endpoint is known not to serve `model`."""
        return model is not None and self.models is not None and all(card.id != model for card in self.models)


def card_of(models: tuple[Card, ...], model: str | None) -> Card:
    """The card of `model`, or the first. Raises `AgentCallError` (NotFound) when nothing is named or listed."""
    if model is not None:
        return next((card for card in models if card.id == model), Card(model, None))
    if not models:
        raise AgentCallError("NotFound", "the server lists no model: set VLLM_MODEL", retryable=False)
    return models[0]


class Endpoints:
    """Ties rotate. An endpoint that failed as such is avoided for `COOL_DOWN_S` while there is another."""

    def __init__(self, urls: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.all = tuple(Endpoint(url) for url in urls)
        self._clock = clock
        self._turn = 0

    def choose(self, model: str | None, last: Endpoint | None = None) -> Endpoint:
        """The endpoint for a call; `last`, where its previous attempt failed, only if there is no other."""
        now = self._clock()
        able = [endpoint for endpoint in self.all if not endpoint.lacks(model)] or list(self.all)
        warm = [endpoint for endpoint in able if endpoint.cooling_until <= now] or able
        others = [endpoint for endpoint in warm if endpoint is not last] or warm
        least = min(endpoint.open_calls for endpoint in others)
        tied = [endpoint for endpoint in others if endpoint.open_calls == least]
        self._turn += 1
        return tied[self._turn % len(tied)]

    def cool_down(self, endpoint: Endpoint) -> None:
        """After a failure of the endpoint itself."""
        endpoint.cooling_until = self._clock() + COOL_DOWN_S
