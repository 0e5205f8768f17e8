"""Decides whether spans are made at all. OpenTelemetry is imported only where it is switched on.

The standard variables switch it on (`OTEL_EXPORTER_OTLP_ENDPOINT`, or that of traces alone) and off again
(`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER=none`).
"""

import os
from collections.abc import Mapping

from fleet.observability.spans import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def tracer_of(component: str, environ: Mapping[str, str] = os.environ) -> Tracer | None:
    """None where nothing is traced."""
    if not any(environ.get(name, "").strip() for name in ENDPOINTS):
        return None
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return None
    from fleet.observability.otlp import OtlpTracer

    return OtlpTracer(
        component, captures_content=environ.get(CAPTURE, "").strip().lower() in ("true", "1", "span_only")
    )
