"""How much one worker may ask of an endpoint: its share of what the endpoint's settings allow the whole fleet.

The limits are divided evenly among the `workers.count` workers of the fleet. So they are never passed by more than
rounding, whoever is busy; while only some workers have calls, the shares of the others lie idle. The rates are kept
by buckets that hold a twenty-fifth of a minute's worth: any minute sees at most 4 % more, and one call.
Pure: the clock is passed in.
"""

from fleet.model_servers import EndpointConfig

BURST = 0.04


class Bucket:
    """Fills at `per_minute`. What is taken may be more than there is: then it is paid back before more is given."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_s = per_minute / 60
        self._most = max(1.0, per_minute * BURST)
        self._level = self._most
        self._at = now

    def wait_s(self, now: float) -> float:
        """Until something may be taken."""
        self._fill(now)
        return 0.0 if self._level >= 1.0 else (1.0 - self._level) / self._per_s

    def take(self, amount: float, now: float) -> None:
        """Negative: some of what was taken was not needed."""
        self._fill(now)
        self._level = min(self._most, self._level - amount)

    def _fill(self, now: float) -> None:
        self._level = min(self._most, self._level + (now - self._at) * self._per_s)
        self._at = now


class Allowance:
    """Of one worker at one endpoint."""

    def __init__(self, config: EndpointConfig, workers: int, now: float) -> None:
        self._calls = None if config.max_concurrency is None else max(1, config.max_concurrency // workers)
        per_minute = config.requests_per_minute
        self._requests = None if per_minute is None else Bucket(per_minute / workers, now)
        per_minute = config.tokens_per_minute
        self._tokens = None if per_minute is None else Bucket(per_minute / workers, now)

    def has_seat(self, open_calls: int) -> bool:
        """Whether another call may be open beside these."""
        return self._calls is None or open_calls < self._calls

    def wait_s(self, now: float) -> float:
        """Until the rates allow another call."""
        return max((bucket.wait_s(now) for bucket in (self._requests, self._tokens) if bucket), default=0.0)

    def begin(self, tokens: int, now: float) -> None:
        """A call begins that will use about so many tokens."""
        if self._requests is not None:
            self._requests.take(1.0, now)
        if self._tokens is not None:
            self._tokens.take(float(tokens), now)

    def end(self, expected: int, used: int, now: float) -> None:
        """It has ended: what it really used counts."""
        if self._tokens is not None:
            self._tokens.take(float(used - expected), now)
