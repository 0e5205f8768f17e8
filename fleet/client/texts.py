"""Reads texts for clients: from the object stores or, where their account has no JetStream, from the fleet itself."""

import hashlib

import nats.errors
from nats.js.errors import ServiceUnavailableError

from fleet.jetstream.lasting import Connection
from fleet.jetstream.payloads import MissingText, Texts
from fleet.messages import ContentRef, encode
from fleet.tenants.names import TEXT

NOT_FOR_ACCOUNT = 10039
"""JetStream's code for an account that has none: a tenant's."""
PIECE_WITHIN_S = 10.0


class ClientTexts(Texts):
    """As `Texts`, and for tenants."""

    def __init__(self, nc: Connection, request_timeout_s: float) -> None:
        super().__init__(nc.jetstream(timeout=request_timeout_s), lambda: nc.max_payload)
        self._nc = nc

    async def get(self, ref: ContentRef, most_bytes: int | None = None) -> bytes:
        """Raises `MissingText`."""
        try:
            return await super().get(ref, most_bytes)
        except ServiceUnavailableError as error:
            if error.err_code != NOT_FOR_ACCOUNT:
                raise
        return await self._served(ref)

    async def _served(self, ref: ContentRef) -> bytes:
        inbox = self._nc.new_inbox()
        pieces = await self._nc.subscribe(inbox)
        body = bytearray()
        try:
            await self._nc.publish(TEXT, encode(ref), reply=inbox)
            while (msg := await pieces.next_msg(timeout=PIECE_WITHIN_S)).data or msg.headers:
                if (headers := msg.headers or {}).get("Status") == "503":
                    raise nats.errors.NoRespondersError
                if error := headers.get("Nats-Service-Error"):
                    raise MissingText(error)
                body += msg.data
        finally:
            await pieces.unsubscribe()
        if not ref.name.endswith(hashlib.sha256(body).hexdigest()[:32]):
            raise MissingText(f"{ref.bucket}/{ref.name} is not what was stored")
        return bytes(body)
