"""Holds the private part of OpenTelemetry (1.45) that is used, with its reason."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


class BytesExporter(OTLPSpanExporter):
    """OpenTelemetry's own exporter, for spans that are encoded already.

    Its `export` takes `ReadableSpan`s alone, and to make and encode those was most of what tracing cost. What it sends
    them by (certificates, headers, compression, further tries) is private: `_client`.
    """

    def send(self, body: bytes) -> bool:
        """Whether the receiver took `body`, an `ExportTraceServiceRequest`."""
        return bool(self._client.export(body).success)
