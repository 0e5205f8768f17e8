"""Counts the attempts of one call: how many there were, where, how they ended."""

from fleet.errors import AgentCallError
from fleet.messages import AttemptTally, CallFacts, Usage
from fleet.messages.usage import total_cost
from workers.llm.attempt import Attempt, WrongEndpoint
from workers.llm.spending import cost

OVERTAKEN = "Overtaken"
LATE = "DeadlineExceeded"


class Tally:
    """What the attempts at one call took."""

    def __init__(self) -> None:
        self._attempts: list[Attempt] = []
        self._hedges = 0
        self._hedge_won = False

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """In the order in which they began."""
        return tuple(self._attempts)

    def add(self, attempt: Attempt) -> None:
        """It has an endpoint, and begins."""
        self._attempts.append(attempt)

    def failed(self, attempt: Attempt, error: AgentCallError) -> None:
        """One that was misplaced was none: nothing was sent."""
        attempt.outcome = error.error_type
        if isinstance(error, WrongEndpoint):
            self._attempts.remove(attempt)

    def raced(self, first: Attempt, winner: Attempt) -> None:
        """The others that ran beside the winner were given up."""
        beside = [attempt for attempt in self._attempts if attempt.number > first.number]
        self._hedges += len(beside)
        self._hedge_won = self._hedge_won or (winner is not first and winner.error is None)
        for attempt in (first, *beside):
            attempt.outcome = attempt.outcome or OVERTAKEN

    def facts(self, last: Attempt | None = None) -> CallFacts:
        """`last`: the attempt that the call's answer comes from; absent: the latest."""
        if last is None and self._attempts:
            last = self._attempts[-1]
        tallies: dict[tuple[str, str, str], AttemptTally] = {}
        for attempt in self._attempts:
            self._count(attempt, tallies)
        route = last.route if last is not None else None
        first_s = last.first_token_s if last is not None else None
        return CallFacts(
            endpoint=route.endpoint.name if route else None,
            model=(last.model or None) if last is not None else None,
            first_token_ms=None if first_s is None else round(first_s * 1000),
            hedges=self._hedges,
            hedge_won=self._hedge_won,
            attempts=tuple(tallies.values()),
        )

    def _count(self, attempt: Attempt, tallies: dict[tuple[str, str, str], AttemptTally]) -> None:
        assert attempt.route is not None
        endpoint, outcome, streamed = attempt.route.endpoint, attempt.outcome or LATE, attempt.streamed
        key, usage = (endpoint.name, attempt.model, outcome), streamed.usage
        costs = 0.0 if usage == Usage() else cost(usage, endpoint.config.price)
        reasoning = (streamed.counts.reasoning or 0) if streamed.counts else 0
        if (before := tallies.get(key)) is not None:
            tallies[key] = before.change(
                count=before.count + 1,
                usage=before.usage + usage,
                reasoning_tokens=before.reasoning_tokens + reasoning,
                cost=total_cost((before.cost, costs)),
            )
            return
        tallies[key] = AttemptTally(
            endpoint=endpoint.name,
            model=attempt.model,
            outcome=outcome,
            usage=usage,
            reasoning_tokens=reasoning,
            cost=costs,
            listed=any(card.id == attempt.model for card in endpoint.models or ()),
        )
