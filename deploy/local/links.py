"""The network between the zones, and before the database, as a process: a proxy that a drill can slow, cut or tear.

Bytes pass untouched: TLS ends where it always does. Environment: ISTHMUS_LINKS, a JSON object
{<link>: [{"listen": "host:port", "to": "host:port"}, ...]}, where a path stands for a Unix socket; what disturbs a link
disturbs all its ways. Faults come in by the door, and end by themselves.
"""

import asyncio
import contextlib
import random
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, get_args

import pydantic
from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local import door
from deploy.local.door import Door, make_private
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
Mode = Literal["black-hole", "reset", "half-open", "lossy", "slow"]
MODES: tuple[str, ...] = get_args(Mode)


BOTH: frozenset[Direction] = frozenset({"there", "back"})


class Fault(BaseModel):
    """What is wrong with a link. `there` is the way in which connections are made.

    `black-hole` holds everything back until it is healed; `reset` tears each connection, `lossy` those that it hits by
    `loss`, a share of what is sent; `half-open` lets the far side forget each connection, of which the near side hears
    nothing, ever; `slow` is latency, jitter and bandwidth.
    """

    model_config = {"extra": "forbid", "frozen": True}

    mode: Mode
    directions: frozenset[Direction] = BOTH
    latency_ms: float = Field(default=0, ge=0, le=10_000)
    jitter_ms: float = Field(default=0, ge=0, le=10_000)
    bytes_per_s: float | None = Field(default=None, gt=0)
    loss: float = Field(default=0, ge=0, le=1)

    @pydantic.model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.mode in ("reset", "half-open") and self.directions != BOTH:
            raise ValueError(f"{self.mode} is of a connection, not of a direction")
        if (self.mode == "lossy") != (self.loss > 0):
            raise ValueError("lossy is what has a loss above 0")
        return self


def fault(request: dict[str, Any]) -> Fault:
    """Of a request to disturb a link.

    Raises:
        BadFault: it makes no sense.
    """
    try:
        return Fault(**{name: value for name, value in request.items() if name not in _ADDRESSED})
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]
        raise BadFault(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error


class Way(BaseModel):
    listen: str
    to: str


class LinkSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", extra="ignore")

    links: dict[str, list[Way]]


@dataclass(eq=False)
class _Connection:
    """`near` is who connected. `forgotten`: the far side has, and the near side must not find out."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    pumping: "asyncio.Future[Any]"
    forgotten: bool = False


@dataclass(eq=False)
class Link:
    """One crossing. At most one fault at a time."""

    name: str
    ways: list[Way]
    fault: Fault | None = None
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[_Connection] = field(default_factory=set)

    async def open(self) -> list[asyncio.Server]:
        return [await self._open(way) for way in self.ways]

    async def _open(self, way: Way) -> asyncio.Server:
        connected = partial(self._connected, way)
        if way.listen.startswith("/"):
            return await _open_unix(Path(way.listen), connected)
        host, _, port = way.listen.rpartition(":")
        return await asyncio.start_server(connected, host, int(port), limit=CHUNK_BYTES_MAX)

    def disturb(self, fault: Fault) -> None:
        self.fault = fault
        self.healed.clear()
        for connection in self.connections:
            if fault.mode == "reset":
                _reset(connection.near)
                _reset(connection.far)
            elif fault.mode == "half-open":
                connection.forgotten = True
                connection.pumping.cancel()

    async def heal(self) -> None:
        self.fault = None
        self.healed.set()

    async def _connected(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mode = self.fault.mode if self.fault is not None else ""
        if mode == "reset":
            _reset(writer)
            return
        if mode == "half-open":
            await _swallow(reader, writer)
            return
        try:
            far_reader, far = await asyncio.wait_for(_dial(way.to), CONNECT_DEADLINE_S)
        except (OSError, TimeoutError):
            _reset(writer)
            return
        pumping = asyncio.gather(self._pump(reader, far, "there"), self._pump(far_reader, writer, "back"))
        connection = _Connection(writer, far, pumping)
        self.connections.add(connection)
        try:
            await pumping
        except (OSError, asyncio.CancelledError):
            _reset(far)
            if connection.forgotten:
                await _swallow(reader, writer)
            else:
                _reset(writer)
        finally:
            pumping.cancel()
            self.connections.discard(connection)
            for one in (writer, far):
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
                if self._loses(direction):
                    raise ConnectionResetError("lost on its way")
                await waiting.put((loop.time() + self._delay_s(direction), data))
                if not data:
                    break
            await delivering
        finally:
            delivering.cancel()

    def _swallows(self, direction: Direction) -> bool:
        return self.fault is not None and self.fault.mode == "black-hole" and direction in self.fault.directions

    def _loses(self, direction: Direction) -> bool:
        fault = self.fault
        lossy = fault is not None and direction in fault.directions and fault.loss > 0
        return lossy and random.random() < fault.loss  # type: ignore[union-attr]  # noqa: S311 (no secret)

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
        wrong = fault(request)
        link.disturb(wrong)
        self._leases.begin(key, f"link {link.name}: {wrong.mode}", ttl_s, link.heal)


async def _open_unix(
    path: Path, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> asyncio.Server:
    """For our user alone, like the socket that it stands for."""
    make_private(path.parent)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(connected, str(path), limit=CHUNK_BYTES_MAX)
    path.chmod(0o600)
    return server


async def _dial(to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if to.startswith("/"):
        return await asyncio.open_unix_connection(to)
    host, _, port = to.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what comes and answer nothing, until whoever connected gives it up."""
    with contextlib.suppress(OSError):
        while await reader.read(CHUNK_BYTES_MAX):
            pass
    writer.close()


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
