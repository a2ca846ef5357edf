"""Structured logs: one JSON object a line on standard output, with who wrote it and in which trace."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from google.protobuf.message import Message

from mesh.call import find_call
from mesh.contract import load
from mesh.redaction import Redaction
from mesh.settings import ProcessSettings

# Under it stand all loggers of the mesh; what libraries say is of interest from a warning on.
_ROOT: Final = "isthmus"
# Attributes of a record.
_EVENT: Final = "isthmus_event"
_CONCEAL: Final = "isthmus_conceal"


def configure(settings: ProcessSettings) -> None:
    """Send this process's logs, the libraries' included, to standard output, redacted as the contract's fields say."""
    level = getattr(logging, settings.log_level.upper())
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Lines(settings, Redaction(load())))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(_ROOT).setLevel(level)
    logging.captureWarnings(True)


class Logger:
    """Writes an event with its fields: log.info("serving", grpc="127.0.0.1:1")."""

    def __init__(self, room: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{room}")

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, *, conceal: Message | None = None, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled, less what `conceal` holds of persons."""
        self._logger.error("%s", event, exc_info=True, extra={_EVENT: fields, _CONCEAL: conceal})

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_EVENT: fields})


def logger(name: str) -> Logger:
    return Logger(name)


class _Lines(logging.Formatter):
    def __init__(self, settings: ProcessSettings, redaction: Redaction) -> None:
        super().__init__()
        self._bound = {"zone": settings.zone, "workload": settings.workload, "node": settings.node}
        self._redaction = redaction
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            **self._bound,
            "room": record.name.removeprefix(f"{_ROOT}."),
            "event": record.getMessage(),
        }
        fields: dict[str, object] = getattr(record, _EVENT, {})
        line |= {name: self._redaction.named(name, value) for name, value in fields.items()}
        call = find_call()
        if call is not None and call.trace_id:
            line["trace_id"] = call.trace_id
        if record.exc_info:
            text = self.formatException(record.exc_info)
            conceal: Message | None = getattr(record, _CONCEAL, None)
            line["exception"] = text if conceal is None else self._redaction.scrub(text, conceal)
        return self._encoder.encode(line).decode()
