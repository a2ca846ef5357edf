"""Audit records as syslog messages (RFC 5424), and their way to a collector over TLS (RFC 5425)."""

import asyncio
import ssl
from collections.abc import AsyncIterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from security.audit.record import AuditRecord, Decision

PORT: Final = 6514
TIMEOUT_S: Final = 10.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# "log audit", and how loud: a refusal, a failure, anything else.
_FACILITY: Final = 13
_WARNING, _NOTICE, _INFORMATIONAL = 4, 5, 6
# The enterprise number that RFC 5612 keeps for documentation: the project has none of its own.
_ELEMENT: Final = "isthmus@32473"
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "]": "\\]"})


def message(record: AuditRecord, sequence: int, leaf_index: int) -> str:
    """One message, without framing. Its structured data is what was hashed."""
    quiet = _INFORMATIONAL if record.result == "OK" else _NOTICE
    severity = _WARNING if record.decision is Decision.DENIED else quiet
    at = (_EPOCH + timedelta(microseconds=record.time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = {
        name: str(getattr(record, name))
        for name in AuditRecord.__struct_fields__
        if name not in ("decision", "time_us")
    }
    fields |= {"decision": record.decision.name, "sequence": str(sequence), "leaf": str(leaf_index)}
    fields["leaf_hash"] = record.leaf_hash().hex()
    data = " ".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in fields.items() if value)
    operation = _name(record.method.rpartition("/")[2])
    host, program = _name(record.node), _name(record.workload)
    return f"<{_FACILITY * 8 + severity}>1 {at} {host} {program} - {operation} [{_ELEMENT} {data}]"


async def send(messages: AsyncIterable[str], host: str, port: int, authorities: Path | None = None) -> int:
    """Send messages to a collector, counted octets before each. Gives how many. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    async with asyncio.timeout(TIMEOUT_S):
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    sent = 0
    try:
        async for text in messages:
            encoded = text.encode()
            writer.write(f"{len(encoded)} ".encode() + encoded)
            async with asyncio.timeout(TIMEOUT_S):
                await writer.drain()
            sent += 1
    finally:
        writer.close()
        async with asyncio.timeout(TIMEOUT_S):
            await writer.wait_closed()
    return sent


def _name(text: str) -> str:
    """A header field: printable ASCII without space, "-" when empty, 32 characters at most (MSGID's limit)."""
    return "".join(each for each in text if "!" <= each <= "~")[:32] or "-"
