"""Calls model servers: one call is as many attempts as it takes, within its deadline.

A failed attempt is an `AttemptError`; `retry` says whether and when the next one comes and what it asks, `endpoints`
where it goes (and waits for room, if need be), `hedging` whether a slow one gets another beside it.

The deadline is one timeout around all of it: nothing of a call outlives it.
"""

import asyncio
from random import Random

import structlog

from fleet.config import Settings
from fleet.errors import ConfigError
from fleet.messages.workers import EndpointStatus
from fleet.tenants.limits import weights_of
from workers.llm.attempt import Attempts, Check
from workers.llm.call import ModelCall, Shared
from workers.llm.hedging import Durations
from workers.llm.outcome import Answer, CallWatcher, GaveUp
from workers.llm.requests import ModelRequest
from workers.llm.servers.allowances import Ledger
from workers.llm.servers.endpoints import Endpoints
from workers.llm.tally import Tally

__all__ = ["Answer", "CallWatcher", "GaveUp", "ModelClient"]

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0


class ModelClient:
    """All calls of one process. To be made on the event loop that uses it; `close` ends its connections."""

    def __init__(self, settings: Settings, *, rng: Random | None = None) -> None:
        if not settings.model_servers:
            raise ConfigError("VLLM_URL: a worker needs a model server, the simulator at least")
        self.endpoints = Endpoints(settings.model_servers, settings.workers, weights=weights_of(settings.tenants))
        self.durations = Durations(settings.workers.hedge_after)
        self.attempts = Attempts(settings)
        self._shared = Shared(settings.workers, self.endpoints, self.durations, self.attempts, rng or Random())

    def start(self) -> None:
        """Reads keys and certificates. An endpoint without its own is left out; without any endpoint: `ConfigError`."""
        for endpoint in self.endpoints.all:
            try:
                self.attempts.know(endpoint)
            except ConfigError as error:
                log.error("endpoint.unusable", endpoint=endpoint.name, error=str(error))
                problem = error
                self.endpoints.leave_out(endpoint)
        if not self.endpoints.all:
            raise problem

    def share_limits(self, ledger: Ledger, worker: str) -> None:
        """With the other workers of the fleet. Without it, this process has the endpoints for itself."""
        self.endpoints.allowances.share(ledger, worker)

    async def give_back(self) -> None:
        """Its share of the limits, for others."""
        await self.endpoints.allowances.close()

    async def close(self) -> None:
        await self.give_back()
        await self.attempts.close()

    async def watch(self) -> None:
        """Until cancelled, asks the servers of which no call has told lately whether they are there: see `status`."""
        clock = self.endpoints.clock
        while True:
            silent = [each for each in self.endpoints.all if each.is_silent(clock())]
            await asyncio.gather(*(self.attempts.look(each, clock) for each in silent))
            await asyncio.sleep(LOOK_EVERY_S)

    def status(self) -> tuple[EndpointStatus, ...]:
        return self.endpoints.status()

    async def complete(
        self,
        request: ModelRequest,
        *,
        request_id: str,
        check: Check,
        watcher: CallWatcher,
        first_attempt: int = 1,
        tally: Tally | None = None,
    ) -> Answer:
        """Raises `GaveUp`. `check` turns the text into `Answer.checked`, or raises `AgentCallError` (InvalidAnswer);
        `tally` is told of all attempts, however the call ends.
        """
        call = ModelCall(self._shared, request_id, check, watcher, first_attempt, tally or Tally())
        return await call.run(request)
