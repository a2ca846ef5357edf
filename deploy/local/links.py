"""The network between the zones as a process: a TCP proxy for each crossing, which a drill can slow, cut or tear.

Bytes pass untouched: TLS ends where it always does. Environment: ISTHMUS_LINKS, a JSON object
{<link>: [{"listen": "host:port", "to": "host:port"}, ...]}; what disturbs a link disturbs all its ways. Faults come in
by the door, and end by themselves.
"""

import asyncio
import contextlib
import random
import signal
import socket
import struct
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn

import pydantic
from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local import door
from deploy.local.door import Door
from deploy.local.leases import BadFault, Leases
from deploy.local.settings import LauncherSettings

NAME = "links"
CHUNK_BYTES_MAX = 64 * 1024
# Chunks on their way through one direction of one connection.
IN_FLIGHT_MAX = 64
CONNECT_DEADLINE_S = 2.0
# SO_LINGER on, zero seconds: closing sends a reset.
RESET = struct.pack("ii", 1, 0)

# What of a request says where and how long; the rest is the fault.
_ADDRESSED = frozenset({"do", "link", "lease", "ttl_s"})

Direction = Literal["there", "back"]


class Fault(BaseModel):
    """What is wrong with a link. `there` is the way in which connections are made."""

    model_config = {"extra": "forbid", "frozen": True}

    mode: Literal["black-hole", "reset", "slow"]
    directions: frozenset[Direction] = frozenset({"there", "back"})
    latency_ms: float = Field(default=0, ge=0, le=10_000)
    jitter_ms: float = Field(default=0, ge=0, le=10_000)
    bytes_per_s: float | None = Field(default=None, gt=0)


class Way(BaseModel):
    listen: str
    to: str


class LinkSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", extra="ignore")

    links: dict[str, list[Way]]


@dataclass(eq=False)
class Link:
    """One crossing. At most one fault at a time."""

    name: str
    ways: list[Way]
    fault: Fault | None = None
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def open(self) -> list[asyncio.Server]:
        return [await self._open(way) for way in self.ways]

    async def _open(self, way: Way) -> asyncio.Server:
        host, _, port = way.listen.rpartition(":")
        return await asyncio.start_server(partial(self._connected, way), host, int(port), limit=CHUNK_BYTES_MAX)

    def disturb(self, fault: Fault) -> None:
        self.fault = fault
        self.healed.clear()
        if fault.mode == "reset":
            for writer in self.writers:
                _reset(writer)

    async def heal(self) -> None:
        self.fault = None
        self.healed.set()

    async def _connected(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault is not None and self.fault.mode == "reset":
            _reset(writer)
            return
        host, _, port = way.to.rpartition(":")
        try:
            there = await asyncio.wait_for(asyncio.open_connection(host, int(port)), CONNECT_DEADLINE_S)
        except (OSError, TimeoutError):
            _reset(writer)
            return
        both = {writer, there[1]}
        self.writers |= both
        ways = (self._pump(reader, there[1], "there"), self._pump(there[0], writer, "back"))
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.gather(*tasks)
        except (OSError, asyncio.CancelledError):
            for one in both:
                _reset(one)
        finally:
            for task in tasks:
                task.cancel()
            self.writers -= both
            for one in both:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT_MAX)

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                if (pause_s := due - loop.time()) > 0:
                    await asyncio.sleep(pause_s)
                # What was sent into a black hole arrives once it is gone: TCP sends it again.
                while self._swallows(direction):
                    await self.healed.wait()
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                if self.fault is not None and self.fault.bytes_per_s and direction in self.fault.directions:
                    await asyncio.sleep(len(data) / self.fault.bytes_per_s)

        delivering = asyncio.create_task(deliver())
        try:
            while True:
                data = await reader.read(CHUNK_BYTES_MAX)
                await waiting.put((loop.time() + self._delay_s(direction), data))
                if not data:
                    break
            await delivering
        finally:
            delivering.cancel()

    def _swallows(self, direction: Direction) -> bool:
        return self.fault is not None and self.fault.mode == "black-hole" and direction in self.fault.directions

    def _delay_s(self, direction: Direction) -> float:
        fault = self.fault
        if fault is None or fault.mode != "slow" or direction not in fault.directions:
            return 0.0
        return max(0.0, fault.latency_ms + random.uniform(-fault.jitter_ms, fault.jitter_ms)) / 1000  # noqa: S311


class Links:
    """What the door of the links does."""

    def __init__(self, ways: dict[str, list[Way]]) -> None:
        self.links = {name: Link(name, found) for name, found in ways.items()}
        self._leases = Leases()

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            BadFault: an unknown link or a fault that makes no sense; nothing was touched.
        """
        match request["do"]:
            case "active":
                return {"leases": self._leases.active(), "links": sorted(self.links)}
            case "disturb":
                self._disturb(request)
                return {}
            case "heal":
                return {"healed": await self._leases.end(request.get("lease"))}
            case other:
                raise BadFault(f"this door does not do {other!r}; it does active, disturb, heal")

    def _disturb(self, request: dict[str, Any]) -> None:
        link = self.links.get(str(request.get("link")))
        if link is None:
            raise BadFault(f"{request.get('link')!r} is no link; there are {', '.join(sorted(self.links))}")
        if link.fault is not None:
            raise BadFault(f"the link {link.name} is disturbed already")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        try:
            fault = Fault(**{name: value for name, value in request.items() if name not in _ADDRESSED})
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            raise BadFault(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
        link.disturb(fault)
        self._leases.begin(key, f"link {link.name}: {fault.mode}", ttl_s, link.heal)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def _main() -> None:
    links = Links(LinkSettings().links)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    servers = [server for link in links.links.values() for server in await link.open()]
    entrance = Door(door.path(LauncherSettings().layout, NAME), links.handle)
    await entrance.open()
    await stopping.wait()
    await entrance.close()
    for server in servers:
        server.close()


def main() -> NoReturn:
    asyncio.run(_main())
    raise SystemExit(0)


if __name__ == "__main__":
    main()
