"""Holds what a worker knows of one model server: its models, its limits, its state, and its open calls."""

from collections.abc import Callable

from msgspec import Struct

from fleet.errors import AgentCallError
from fleet.messages.workers import BreakerState, EndpointStatus
from fleet.model_servers import EndpointConfig, base_url, joined, shown
from workers.llm.failures import AttemptError
from workers.llm.servers.allowances import Allowance
from workers.llm.servers.breaker import Breaker, Rules
from workers.llm.servers.dialects import DIALECTS, Form

FIRST_REFUSAL_S = 5.0
ASK_SILENT_EVERY_S, ASK_IDLE_EVERY_S = 5.0, 30.0
"""How often a server is asked for its list where no call has heard of it: one that did not answer, one that did."""
LONGEST_REFUSAL_S = 300.0
REMEMBERED_MODELS = 256
"""Requests may name any: the one that has been known longest is forgotten first."""
SHOWN_CHARACTERS = 200
"""Of an error, in a status that is told every few seconds."""
LONGEST_PAUSE_S = 600.0
"""A server that asked for more is tried again all the same: some of them write times that nobody means."""


class ModelCard(Struct, frozen=True):
    """A model as an endpoint lists it; `window` in tokens, None where it does not say."""

    id: str
    window: int | None = None
    parent: str | None = None


class _Refusal(Struct, frozen=True):
    until: float
    lasts_s: float
    error: AttemptError


class Endpoint:
    """`models` None: not asked yet."""

    def __init__(self, name: str, config: EndpointConfig, rules: Rules) -> None:
        self.name = name
        self.config = config
        self.dialect = DIALECTS[config.kind]
        self.base = base_url(config.url)
        self.url = joined(self.base, self.dialect.path)
        self.shown = shown(config.url.rstrip("/"))
        """Without credentials: for errors and logs."""
        self._rules = rules
        self._breakers: dict[str | None, Breaker] = {}
        self.allowance = Allowance(config)
        self.open_calls = 0
        self.models: tuple[ModelCard, ...] | None = None
        self.list_failed = False
        self.answers: bool | None = None
        self._heard_at: float | None = None
        self.counts_tokens = self.dialect.counts_tokens
        self.paused_until = 0.0
        self._not_loaded: set[str] = set()
        self._windows: dict[str, int] = {}
        self._forms: dict[str, Form] = {}
        self._refusals: dict[str | None, _Refusal] = {}
        self._last_error: tuple[AgentCallError, float] | None = None

    # --- models -----------------------------------------------------------------------------------------------------

    def is_not_for(self, model: str | None) -> bool:
        """Whether the settings say that this endpoint does not serve `model`."""
        named = self.config.models
        return model is not None and named is not None and model not in named

    def lacks(self, model: str | None) -> bool:
        """Whether this endpoint's list is known, and `model` is not on it."""
        if model is None or self.models is None or self.config.models is not None:
            return False
        return all(card.id not in (model, f"{model}:latest", f"models/{model}") for card in self.models)

    def may_load(self, name: str | None, base: str | None, adapter: str | None) -> bool:
        """Whether it can be asked to load an adapter that it does not list: it has the base, and has not said no."""
        if adapter is None or base is None or name in self._not_loaded or not self.dialect.loads_adapters:
            return False
        return self.models is not None and self.lacks(name) and not self.lacks(base)

    def not_loaded(self, name: str) -> None:
        """It does not load this one."""
        self._not_loaded.add(name)

    def card(self, model: str | None) -> ModelCard | None:
        """Of `model`, or the first that is listed; None where nothing is named or known."""
        cards = self.models or ()
        named = self.config.models
        if model is None and named:
            model = named[0]
        if model is None:
            return cards[0] if cards else None
        card = next((card for card in cards if card.id == model), None)
        if card is None:
            return ModelCard(model)
        if card.window is None and card.parent is not None:
            parent = next((each for each in cards if each.id == card.parent), None)
            return ModelCard(card.id, parent.window if parent else None, card.parent)
        return card

    def window(self, card: ModelCard, base: str | None = None) -> int | None:
        """Of the context; what the server has said in an error counts before its list."""
        if (learned := self._windows.get(card.id)) is not None:
            return learned
        if card.window is None and base is not None:
            return next((each.window for each in self.models or () if each.id == base), None)
        return card.window

    def learn_window(self, model: str, tokens: int) -> None:
        """From an error that told it."""
        self._windows[model] = tokens

    def form(self, model: str) -> Form:
        """How `model` is asked here."""
        if (form := self._forms.get(model)) is None:
            form = self._forms[model] = Form(self.dialect)
        return form

    # --- how it is --------------------------------------------------------------------------------------------------

    def breaker(self, model: str | None) -> Breaker:
        """Of one model here: behind a proxy, each may be on a server of its own."""
        if (breaker := self._breakers.get(model)) is None:
            if len(self._breakers) >= REMEMBERED_MODELS:
                del self._breakers[next(iter(self._breakers))]
            breaker = self._breakers[model] = Breaker(self._rules)
        return breaker

    def breaker_state(self, now: float) -> BreakerState:
        """Of the best of them: `open` where no model gets calls."""
        states = {breaker.state(now) for breaker in self._breakers.values()}
        return next((state for state in ("closed", "half-open", "open") if state in states), "closed")

    def refuses(self, model: str | None, now: float) -> bool:
        """Whether it refused the last call for `model`, not long ago."""
        refusal = self._refusals.get(model)
        return refusal is not None and now < refusal.until

    def refused(self, model: str | None, error: AttemptError, now: float) -> None:
        """It will not be chosen for this model while another endpoint can; for longer each time."""
        before = self._refusals.get(model)
        lasts_s = FIRST_REFUSAL_S if before is None else min(LONGEST_REFUSAL_S, 2 * before.lasts_s)
        self._refusals[model] = _Refusal(now + lasts_s, lasts_s, error)

    def took(self, model: str | None) -> None:
        """It answered a call for `model`."""
        if self._refusals:
            self._refusals.pop(model, None)

    def failed(self, error: AgentCallError, now: float) -> None:
        """An attempt did, through the fault of the server: for whoever looks for the reason."""
        self._last_error = (error, now)

    def pause(self, asked_s: float | None, now: float) -> None:
        """It has no room. What it asked for is kept by all calls; without that each call waits for itself."""
        if asked_s is not None:
            self.paused_until = max(self.paused_until, now + min(asked_s, LONGEST_PAUSE_S))

    def note_answer(self, answers: bool, now: float) -> None:
        """It has answered, or it has not."""
        self.answers, self._heard_at = answers, now

    def is_silent(self, now: float) -> bool:
        """Whether nothing was heard of it for so long that it is to be asked."""
        every_s = ASK_IDLE_EVERY_S if self.answers else ASK_SILENT_EVERY_S
        return not self.open_calls and (self._heard_at is None or now - self._heard_at >= every_s)

    def forget(self) -> None:
        """It went away, and may come back with other models."""
        self.models = None
        self.list_failed = False
        self._not_loaded.clear()
        self._windows.clear()

    def status(self, now: float, waiting: int) -> EndpointStatus:
        error, at = self._last_error or (None, now)
        return EndpointStatus(
            name=self.name,
            url=self.shown,
            breaker=self.breaker_state(now),
            opened=sum(breaker.opened for breaker in self._breakers.values()),
            open_calls=self.open_calls,
            waiting=waiting,
            refuses={
                model or "any model": refusal.error.error
                for model, refusal in self._refusals.items()
                if now < refusal.until
            },
            answers=self.answers,
            last_error_type=error.error_type if error else None,
            last_error=error.error[:SHOWN_CHARACTERS] if error else None,
            last_error_age_s=round(now - at, 1) if error else None,
        )


def rules_of(failures: int, share: float, cool_down_s: float, longest_cool_down_s: float) -> Rules:
    """A longest cool-down that is shorter than the first is the first."""
    return Rules(
        failures=failures,
        share=share,
        cool_down_s=cool_down_s,
        longest_cool_down_s=max(cool_down_s, longest_cool_down_s),
    )


Clock = Callable[[], float]
