"""Tokens by which an answer shows that its worker was given the call.

All workers are one user of NATS, and may publish any answer. So each call carries a token, which its answer must bring
back: a keyed digest of the call's name. Only the control plane may read the key, and only the worker that is given a
call reads its token. A worker that is broken into can answer what it took, and nothing else.

The key lies in a bucket of its own. Every process knows it, and stores it again where the bucket was lost. After a
restore there may be two: both are taken, and the stored one is used.
"""

import hmac
import secrets
import time

import structlog
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from fleet import subjects
from fleet.messages import AgentRequested, AgentResponse

log = structlog.get_logger(__name__)

KEY = "calls"
BYTES, TOKEN_CHARACTERS = 32, 32
LOOK_AGAIN_AFTER_S = 1.0
"""Forged answers must not make the key be read for each of them."""
OLDER = 8
"""Keys that are taken beside the one in use, the newest ones: each costs an answer with a wrong token a digest."""


class CallTokens:
    """Of one process. `key` is used; `older` are taken, too."""

    def __init__(self, js: JetStreamContext, key: bytes) -> None:
        self._js = js
        self._key = key
        self._older: list[bytes] = []
        self._looked_at = 0.0

    @classmethod
    async def open(cls, js: JetStreamContext) -> "CallTokens":
        """The bucket must exist: `topology.declare` makes it."""
        tokens = cls(js, secrets.token_bytes(BYTES))
        await tokens.keep()
        tokens._older.clear()
        return tokens

    async def keep(self) -> None:
        """Uses the key that is stored, and stores this one where there is none."""
        bucket = await self._js.key_value(subjects.KEYS)
        try:
            stored = (await bucket.get(KEY)).value or b""
        except KeyNotFoundError:
            try:
                await bucket.create(KEY, self._key)
            except KeyWrongLastSequenceError:  # another process was faster
                stored = (await bucket.get(KEY)).value or b""
            else:
                return
        if stored != self._key:
            self._older = [self._key, *(key for key in self._older if key not in (self._key, stored))][:OLDER]
            self._key = stored

    def of(self, call: AgentRequested | AgentResponse) -> str:
        """The same for every attempt at a call."""
        return _digest(self._key, call)

    async def fits(self, answer: AgentResponse, token: str) -> bool:
        """Whether the token is that of the call which is answered."""
        if self._known(answer, token):
            return True
        if token and time.monotonic() - self._looked_at > LOOK_AGAIN_AFTER_S:
            self._looked_at = time.monotonic()
            await self.keep()
        return self._known(answer, token)

    def _known(self, answer: AgentResponse, token: str) -> bool:
        return any(
            hmac.compare_digest(_digest(key, answer).encode(), token.encode(errors="replace"))
            for key in (self._key, *self._older)
        )


def _digest(key: bytes, call: AgentRequested | AgentResponse) -> str:
    return hmac.digest(key, call.name.encode(), "sha256").hex()[:TOKEN_CHARACTERS]
