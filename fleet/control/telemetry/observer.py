"""Observes what a component does with tasks: its meter counts changes, its tracer exports the spans of ends."""

from collections.abc import Sequence

from fleet.control.states.saves import AppliedEvent
from fleet.control.telemetry.deliberation_spans import spans_of
from fleet.control.telemetry.metering import Meter
from fleet.deliberation.state import Deliberation
from fleet.observability.spans import Tracer


class ComponentObserver:
    """As `saves.Observer`. `tracer` None: nothing is traced."""

    def __init__(self, meter: Meter, tracer: Tracer | None) -> None:
        self._meter = meter
        self._tracer = tracer

    def saved(self, before: Deliberation | None, after: Deliberation, applied: Sequence[AppliedEvent]) -> None:
        self._meter.saved(before, after, applied)

    def ended(self, state: Deliberation) -> None:
        if self._tracer is not None:
            self._tracer.emit(*spans_of(state))

    async def exported(self) -> None:
        if self._tracer is not None:
            await self._tracer.exported()
