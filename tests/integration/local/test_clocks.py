"""A process whose clock is off is found out by the Date that it gives, and one that is silent accuses nobody."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from deploy.local import clocks
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process
from mesh.tls import Identity
from tests.integration.conftest import Identities


@asynccontextmanager
async def metrics(identities: Identities, name: str, away: timedelta) -> AsyncIterator[Process]:
    """A metrics port over mutual TLS whose owner's clock is so far away."""
    identity = identities.issue("private", "orders", name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        date = format_datetime((datetime.now(UTC) + away).replace(microsecond=0), usegmt=True)
        writer.write(f"HTTP/1.1 200 OK\r\nserver: test\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    context: ssl.SSLContext = Identity(identity).ssl_context(server=True)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        yield Process(name, "private", "orders", name, 1, (Listen("metrics", "127.0.0.1", port, "https"),))


async def test_a_clock_that_is_off_is_found(identities: Identities) -> None:
    hour = timedelta(hours=1)
    async with (
        metrics(identities, "right", timedelta()) as right,
        metrics(identities, "slow", -hour) as slow,
        metrics(identities, "fast", hour) as fast,
    ):
        silent = Process("silent", "private", "orders", "right", 1, right.listens[:0])
        found = await clocks.skews(Home(identities.home), [right, slow, fast, silent])
    assert found["right"] == 0
    assert 3590 < found["slow"] < 3610
    assert 3590 < found["fast"] < 3610
    assert "silent" not in found
