"""Defines what a span holds, and where spans are sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fleet.messages.trace_ids import TraceContext


@dataclass(frozen=True, slots=True)
class Span:
    """One that has ended. Times in ns since 1970; `error`: an error type; `parent` None: there is none above."""

    name: str
    context: TraceContext
    parent: str | None
    began_ns: int
    ended_ns: int
    kind: Literal["internal", "client"] = "internal"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


class Tracer(Protocol):
    """Exports spans; `fleet.observability.otlp.OtlpTracer` is the real one."""

    captures_content: bool
    """Whether texts may be attributes."""

    def samples(self, context: TraceContext) -> bool:
        """Whether a trace that begins here is to be recorded."""

    def emit(self, *spans: Span) -> None:
        """Takes what has ended. Spans of a trace that is not sampled are dropped. Parents first."""

    async def exported(self) -> None:
        """Returns once everything that was emitted is exported, or a short time is over."""

    async def close(self) -> None:
        """Exports what is left, as far as that goes quickly."""
