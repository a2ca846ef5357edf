"""How far the clocks of a mesh are from this machine's: tokens, leaves and leases are compared by them."""

import asyncio
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from deploy.local.health import tls_context
from deploy.local.settings import Home
from deploy.local.topology import Process

_DEADLINE_S = 3.0
_LINES_MAX = 32
_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def skews(home: Home, asked: Iterable[Process]) -> dict[str, float]:
    """Seconds by which each process' clock is surely off, by name: its metrics port says the Date (RFC 9110, 6.6.1).

    A Date is in whole seconds, so anything below one counts as none. Who does not answer is left out: that is another
    finding.
    """

    async def ask(one: Process) -> tuple[str, float | None]:
        before = time.time()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                theirs = await _date(home, one)
        except (OSError, TimeoutError, ValueError):
            return one.name, None
        return one.name, max(0.0, before - (theirs + 1), theirs - time.time())

    answers = await asyncio.gather(*(ask(one) for one in asked if one.listen("metrics")))
    return {name: skew_s for name, skew_s in answers if skew_s is not None}


async def _date(home: Home, one: Process) -> float:
    listen = one.listen("metrics")
    assert listen is not None
    context = tls_context(home.identity(one.name))
    reader, writer = await asyncio.open_connection(
        listen.address, listen.port, ssl=context, server_hostname="localhost"
    )
    try:
        writer.write(_REQUEST)
        await writer.drain()
        for _ in range(_LINES_MAX):
            name, _, value = (await reader.readline()).decode("latin-1").partition(":")
            if name.lower() == "date":
                return parsedate_to_datetime(value.strip()).timestamp()
    finally:
        # What was asked for is here: a farewell in TLS would last longer than the loop of a command.
        writer.transport.abort()
    raise ValueError("no Date in the answer")
