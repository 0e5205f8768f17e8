"""Simulates the engine behind the API: seats, pace, prefix cache and counters. Knows no HTTP."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from workers.simulator.text import TokenIds

BLOCK_TOKENS = 16


class PrefixCache:
    """Automatic prefix caching: full blocks of 16 tokens, each known by all the tokens up to its end."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def admit(self, model: str, ids: TokenIds) -> int:
        """How many leading tokens of `ids` were known; all its full blocks are known from now on. As in vLLM, what was
        generated is known, too, once it is admitted with its prompt in front.
        """
        chain = list(_chain(model, ids))
        # The last token is always computed anew, for the first output token comes from it.
        reusable = chain[: (len(ids) - 1) // BLOCK_TOKENS]
        known = next((i for i, key in enumerate(reusable) if key not in self._blocks), len(reusable))
        # Last block first: when room is short a chain must lose its tail, not the head all others hang on.
        for key in reversed(chain):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return known * BLOCK_TOKENS


def _chain(model: str, ids: TokenIds) -> Iterator[int]:
    data, width = ids.tobytes(), BLOCK_TOKENS * ids.itemsize
    key = hash(model)
    for end in range(width, len(data) + 1, width):
        key = hash((key, data[end - width : end]))
        yield key


class Seats:
    """At most `limit` requests run; the others wait in order of arrival. `limit` may change at any time."""

    def __init__(self, limit: int) -> None:
        self.running = 0
        self.most_running = 0
        self._limit = limit
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def is_free(self) -> bool:
        return self.running < self._limit and not self._queue

    def resize(self, limit: int) -> None:
        self._limit = limit
        self._call_next()

    async def take(self) -> None:
        """Return once the caller has a seat, to be given back with `leave`."""
        if self.is_free:
            self._sit()
            return
        called = asyncio.get_running_loop().create_future()
        self._queue.append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.cancelled():
                with suppress(ValueError):
                    self._queue.remove(called)
            else:  # called and cancelled in the same turn of the loop: the seat goes to the next
                self.leave()
            raise

    def leave(self) -> None:
        self.running -= 1
        self._call_next()

    def _call_next(self) -> None:
        while self._queue and self.running < self._limit:
            called = self._queue.popleft()
            if not called.done():
                self._sit()
                called.set_result(None)

    def _sit(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)


@dataclass(kw_only=True)
class ModelCounters:
    """What vLLM counts for one model; tokens are totals since the start."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0})


@asynccontextmanager
async def seated(seats: Seats, counters: ModelCounters) -> AsyncIterator[None]:
    """Wait for a seat, keep it for the block; the gauges of `counters` follow."""
    counters.waiting += 1
    try:
        await seats.take()
    finally:
        counters.waiting -= 1
    counters.running += 1
    try:
        yield
    finally:
        counters.running -= 1
        seats.leave()


async def paced(
    length: int,
    rate: float,
    latency_s: float,
    *,
    tick_s: float = 0.0,
) -> AsyncIterator[tuple[int, int]]:
    """Ranges of tokens as they fall due, together 0 … length: token i at latency_s + i / rate (0: at once).

    Every wait is for a point on that schedule, so the range after a late wake-up makes up for it. `tick_s`
    is the shortest wait.
    """
    clock = asyncio.get_running_loop().time
    start = clock() + latency_s
    if latency_s:
        await asyncio.sleep(latency_s)
    if not rate:
        yield 0, length
        return
    end = start + (length - 1) / rate
    done = 0
    while done < length:
        wake = min(end, max(start + done / rate, clock() + tick_s))
        if wake > clock():
            await asyncio.sleep(wake - clock())
        due = min(length, max(done, int((clock() - start) * rate)) + 1)
        yield done, due
        done = due


def metrics_text(models: Mapping[str, ModelCounters]) -> str:
    """The counters in Prometheus' text format, named and labelled as vLLM does."""
    lines: list[str] = []
    for name, kind, attribute, meaning in (
        ("num_requests_running", "gauge", "running", "Number of requests in model execution batches."),
        ("num_requests_waiting", "gauge", "waiting", "Number of requests waiting to be processed."),
        ("prompt_tokens_total", "counter", "prompt_tokens", "Number of prefill tokens processed."),
        ("generation_tokens_total", "counter", "generation_tokens", "Number of generation tokens processed."),
        ("prefix_cache_queries_total", "counter", "cache_queries", "Prefix cache queries, in tokens."),
        ("prefix_cache_hits_total", "counter", "cache_hits", "Prefix cache hits, in tokens."),
    ):
        lines += _family(name, kind, meaning)
        for model, counters in models.items():
            value = float(getattr(counters, attribute))
            lines.append(f'vllm:{name}{{engine="0",model_name="{model}"}} {value}')
    lines += _family("request_success_total", "counter", "Count of successfully processed requests.")
    for model, counters in models.items():
        for reason, count in counters.finished.items():
            labels = f'engine="0",finished_reason="{reason}",model_name="{model}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {float(count)}")
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP vllm:{name} {meaning}", f"# TYPE vllm:{name} {kind}"]
