"""Structured logs: one JSON object a line on standard output, with who wrote it and in which trace."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from mesh.call import find_call
from mesh.settings import ProcessSettings

# Names under which a value is never written, whatever the caller meant by it.
_NEVER = frozenset({"token", "password", "secret", "authorization", "phone", "address", "key", "cookie"})


def configure(settings: ProcessSettings) -> None:
    """Send this process's logs, the standard library's included, to standard output."""
    level = getattr(logging, settings.log_level.upper())
    bound = {"zone": settings.zone, "workload": settings.workload, "node": settings.node}

    def identify(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**event, **bound}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace,
        identify,
        _redact,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    return structlog.get_logger(room=name)  # type: ignore[no-any-return]


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event.keys() & _NEVER:
        event[name] = "[redacted]"
    return event


def _trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    call = find_call()
    if call is not None and call.trace_id:
        event["trace_id"] = call.trace_id
    return event
