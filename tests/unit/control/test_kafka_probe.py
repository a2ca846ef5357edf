"""How a broker is asked, over real TLS, and what is taken for an answer."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mesh.control.probes import Outcome, Probe, over_kafka
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from tests.unit.mesh.conftest import Zone

KAFKA = SpiffeId("public", "kafka")
# As long as a starved machine may need; what never answers is given less.
WITHIN_S = 30.0
SILENCE_S = 0.2
# Size and correlation id, then ten bytes that nobody reads.
ANSWER = struct.pack(">ii", 14, 1) + bytes(10)

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes, one request after another."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            yield await reader.readexactly(size)


@contextlib.asynccontextmanager
async def broker(zone: Zone, answer: Answer, workload: str = "kafka") -> AsyncIterator[str]:
    context = Identity(zone.issue(workload)).ssl_context(server=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await answer(reader, writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@contextlib.asynccontextmanager
async def probing(zone: Zone, address: str) -> AsyncIterator[Probe]:
    async with over_kafka(address, Identity(zone.issue("control-public")), KAFKA) as probe:
        yield probe


@pytest.fixture
def public(tmp_path: Path) -> Zone:
    return Zone(tmp_path, "public")


async def test_any_answer_serves_and_the_connection_is_kept(public: Zone) -> None:
    asked: list[list[bytes]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append([])
        async for request in requests(reader):
            asked[-1].append(request)
            # In pieces, as networks like it.
            writer.write(ANSWER[:5])
            await writer.drain()
            writer.write(ANSWER[5:])

    async with broker(public, answer) as address, probing(public, address) as probe:
        assert [await probe.ask(WITHIN_S) for _ in range(3)] == [Outcome.SERVING] * 3
    # API key, version, correlation id, and who asks.
    assert asked == [[struct.pack(">hhih", 18, 0, 1, 15) + b"isthmus-control"] * 3]


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">ii", 14, 2) + bytes(10),
        struct.pack(">ii", 2**31 - 1, 1),
        struct.pack(">ii", -1, 1),
        struct.pack(">ii", 4, 1),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
    ],
    ids=["of another request", "endless", "negative", "empty", "http", "nothing"],
)
async def test_what_is_no_answer_fails_and_the_next_is_asked_anew(public: Zone, said: bytes) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        async for _ in requests(reader):
            writer.write(said if connections == 1 else ANSWER)
            await writer.drain()
            if connections == 1:
                return

    async with broker(public, answer) as address, probing(public, address) as probe:
        assert await probe.ask(WITHIN_S) is Outcome.FAILED
        assert await probe.ask(WITHIN_S) is Outcome.SERVING


async def test_silence_fails_and_a_late_answer_is_not_taken_for_the_next(public: Zone) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        async for _ in requests(reader):
            if not first:
                writer.write(ANSWER)

    async with broker(public, answer) as address, probing(public, address) as probe:
        assert await probe.ask(SILENCE_S) in (Outcome.FAILED, Outcome.UNSURE)
        assert await probe.ask(WITHIN_S) is Outcome.SERVING
        assert connections == 2


async def test_another_workload_at_its_address_is_not_believed(public: Zone) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for _ in requests(reader):
            writer.write(ANSWER)

    async with broker(public, answer, workload="edge") as address, probing(public, address) as probe:
        assert await probe.ask(WITHIN_S) is Outcome.FAILED


async def test_nobody_there_fails(public: Zone) -> None:
    async with probing(public, "127.0.0.1:1") as probe:
        assert await probe.ask(WITHIN_S) is Outcome.FAILED
