"""Which model server takes a call: of those whose breaker lets it, the one with the fewest open calls from here."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog
from msgspec import Struct
from yarl import URL

from fleet.config import Workers
from fleet.errors import AgentCallError
from workers.llm.breaker import Breaker, Rules, State
from workers.llm.failures import outcome_of

log = structlog.get_logger(__name__)


class Card(Struct, frozen=True):
    """A model as an endpoint lists it; `window` in tokens, None where it does not say."""

    id: str
    window: int | None


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """How one endpoint looks from here. `opened`: how often its breaker has."""

    url: str
    breaker: State
    opened: int
    open_calls: int


class Endpoint:
    """One server. `models` None: not asked yet."""

    def __init__(self, url: str, rules: Rules) -> None:
        self.url = url
        self.shown = str(URL(url).with_user(None))
        """Without credentials: for errors and logs."""
        self.breaker = Breaker(rules)
        self.open_calls = 0
        self.models: tuple[Card, ...] | None = None
        self.counts_tokens = True

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
    """All of one process. Ties rotate."""

    def __init__(
        self, urls: Iterable[str], limits: Workers | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limits = limits or Workers()
        rules = Rules(
            failures=limits.breaker_failures,
            share=limits.breaker_share,
            cool_down_s=limits.breaker_cool_down_s,
            longest_cool_down_s=max(limits.breaker_cool_down_s, limits.breaker_longest_cool_down_s),
        )
        self.all = tuple(Endpoint(url, rules) for url in urls)
        self._clock = clock
        self._turn = 0
        self._changed = asyncio.Event()

    def status(self) -> tuple[EndpointStatus, ...]:
        now = self._clock()
        return tuple(
            EndpointStatus(
                url=each.shown,
                breaker=each.breaker.state(now),
                opened=each.breaker.opened,
                open_calls=each.open_calls,
            )
            for each in self.all
        )

    def choose(self, model: str | None, last: Endpoint | None = None) -> Endpoint | None:
        """The endpoint for an attempt now; `last`, where the previous one failed, only if there is no other.

        None: every endpoint with this model has an open breaker.
        """
        now = self._clock()
        ready = [endpoint for endpoint in self._able(model) if endpoint.breaker.admits(now)]
        if not ready:
            return None
        others = [endpoint for endpoint in ready if endpoint is not last] or ready
        least = min(endpoint.open_calls for endpoint in others)
        tied = [endpoint for endpoint in others if endpoint.open_calls == least]
        self._turn += 1
        return tied[self._turn % len(tied)]

    def another(self, model: str | None, than: Endpoint) -> Endpoint | None:
        """What `choose` says, if that is another one."""
        found = self.choose(model, than)
        return None if found is than else found

    async def ready(self, model: str | None, last: Endpoint | None = None) -> Endpoint:
        """What `choose` says, as soon as it names an endpoint. The attempt must begin at once."""
        while (endpoint := self.choose(model, last)) is None:
            now = self._clock()
            waits = [each.breaker.wait_s(now) for each in self._able(model)]
            changed = self._changed
            try:
                async with asyncio.timeout(min((wait_s for wait_s in waits if wait_s is not None), default=None)):
                    await changed.wait()
            except TimeoutError:
                pass  # A cool-down is over: whoever comes first probes.
        return endpoint

    @contextmanager
    def attempt(self, endpoint: Endpoint) -> Iterator[None]:
        """One attempt at an endpoint: its breaker counts how the block ends."""
        breaker = endpoint.breaker
        was = breaker.state(self._clock())
        era = breaker.begin(self._clock())
        endpoint.open_calls += 1
        failure: AgentCallError | None = None
        outcome = outcome_of(None)
        try:
            yield
        except AgentCallError as error:
            failure, outcome = error, outcome_of(error)
            raise
        except BaseException:
            outcome = "abandoned"
            raise
        finally:
            endpoint.open_calls -= 1
            opened = breaker.opened
            breaker.end(era, outcome, self._clock())
            if breaker.opened > opened:
                error_type = failure.error_type if failure else None
                told = {"endpoint": endpoint.shown, "cool_down_s": breaker.cool_down_s, "error_type": error_type}
                log.warning("breaker.opened", **told)
            elif was != "closed" and breaker.state(self._clock()) == "closed":
                log.info("breaker.closed", endpoint=endpoint.shown)
            if was != "closed":
                self._changed.set()
                self._changed = asyncio.Event()

    def _able(self, model: str | None) -> list[Endpoint]:
        return [endpoint for endpoint in self.all if not endpoint.lacks(model)] or list(self.all)
