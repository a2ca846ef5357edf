"""Spans on their way out of the process: what they may show follows from the contract, as with logs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from mesh.redaction import HIDDEN, Redaction

# What a library records of an exception quotes what it choked on; the exception's type says enough.
_QUOTING: Final = frozenset({"exception.message", "exception.stacktrace"})


class RedactedExporter(SpanExporter):
    """Hands spans on with every attribute, event, link and status as the class of the field so named allows.

    It stands last, so that it also sees what libraries set after a span began.
    """

    def __init__(self, exporter: SpanExporter, redaction: Redaction) -> None:
        self._exporter = exporter
        self._redaction = redaction

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._redacted(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _redacted(self, span: ReadableSpan) -> ReadableSpan:
        description = span.status.description
        # The name of a type, or else somebody's words.
        said = description if description is None or description.isidentifier() else HIDDEN
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._shown(span.attributes),
            events=[Event(each.name, self._shown(each.attributes), each.timestamp) for each in span.events],
            links=[Link(each.context, self._shown(each.attributes)) for each in span.links],
            kind=span.kind,
            status=Status(span.status.status_code, said),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _shown(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            name: HIDDEN if name in _QUOTING else self._redaction.named(name.rpartition(".")[2], value)
            for name, value in (attributes or {}).items()
        }
