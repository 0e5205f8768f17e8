"""Decides which request gets which fault. Pure: the n-th draw depends on seed and n alone."""

from hashlib import blake2b
from typing import Literal, get_args

from msgspec import Struct

FaultKind = Literal[
    "refuse",  # the connection is closed without a response
    "http_429",  # with Retry-After
    "http_500",
    "http_503",
    "hang",  # taken, and never answered
    "stall",  # half of the answer, then silence
    "truncate",  # half of the answer, then the connection closes
    "malformed",  # half of the answer, then a chunk that is not JSON
    "empty",  # an answer without text
]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


class Faults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Probabilities per chat request, 0 … 1, together at most 1. Raises ValueError for any other."""

    refuse: float = 0.0
    http_429: float = 0.0
    http_500: float = 0.0
    http_503: float = 0.0
    hang: float = 0.0
    stall: float = 0.0
    truncate: float = 0.0
    malformed: float = 0.0
    empty: float = 0.0
    retry_after_s: float = 1.0
    """Sent with 429. A fraction is not proper HTTP, but it is sent as given to keep tests quick."""
    flapping: float = 0.0
    """Period in seconds: up for one, refusing every request for the next, and so on; 0 = never."""
    only_first: int | None = None
    """Only the first so many chat requests may fail (flapping apart); None = all."""

    def __post_init__(self) -> None:
        shares = [self.probability(kind) for kind in FAULT_KINDS]
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError("fault probabilities are 0 … 1, and together at most 1")
        if min(self.retry_after_s, self.flapping, self.only_first or 0) < 0:
            raise ValueError("retry_after_s, flapping and only_first are not negative")

    def probability(self, kind: FaultKind) -> float:
        value: float = getattr(self, kind)
        return value

    def draw(self, seed: int, number: int) -> FaultKind | None:
        """The fault of chat request `number` (from 0), or None for a good answer."""
        if self.only_first is not None and number >= self.only_first:
            return None
        digest = blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest) / 2**64
        for kind in FAULT_KINDS:
            point -= self.probability(kind)
            if point < 0:
                return kind
        return None

    def is_down(self, up_for_s: float) -> bool:
        """Whether a flapping server refuses at this time after its start."""
        return self.flapping > 0 and int(up_for_s / self.flapping) % 2 == 1
