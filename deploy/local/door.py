"""The launcher's door for drills: one JSON object a line over a Unix socket that its user alone can open.

A request is {"do": <name>, ...}; the answer is {"ok": true, ...} or {"ok": false, "reason": ...}. Whoever can open the
socket could send the signals by hand; what the door adds is that every fault has an end.
"""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from deploy.local.errors import LauncherError, NotRunning
from deploy.local.leases import BadFault
from deploy.local.settings import Home

LINE_BYTES_MAX = 64 * 1024
IDLE_S = 30.0
CALL_DEADLINE_S = 60.0
LAUNCHER = "launcher"

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Refused(LauncherError):
    """The door understood and said no."""

    exit_code = 17


def path(home: Home, process: str = LAUNCHER) -> Path:
    return home.sockets(process) / "door.sock"


def make_private(directory: Path) -> None:
    """A directory of sockets that is ours alone.

    Raises:
        LauncherError: it is not.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise LauncherError(f"{directory} is open to others", "Remove it, or choose another ISTHMUS_HOME")


class Door:
    """Serves one handler on one socket."""

    def __init__(self, socket_path: Path, handler: Handler) -> None:
        self._path = socket_path
        self._handler = handler
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """
        Raises:
            LauncherError: the socket's directory is not ours alone. Where the home's path is long it lies under /tmp.
        """
        make_private(self._path.parent)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_BYTES_MAX)
        self._path.chmod(0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            async with asyncio.timeout(IDLE_S + CALL_DEADLINE_S):
                line = await asyncio.wait_for(reader.readline(), IDLE_S)
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or not isinstance(request.get("do"), str):
                raise BadFault('a request is {"do": <name>, ...}')
            return {"ok": True, **await self._handler(request)}
        except (BadFault, LauncherError, ValueError) as error:
            return {"ok": False, "reason": str(error)}


def call(socket_path: Path, deadline_s: float = CALL_DEADLINE_S, **request: Any) -> dict[str, Any]:
    """Ask a door, from outside its process. Blocks up to `deadline_s`.

    Raises:
        NotRunning: nobody is behind the door.
        Refused: the answer is no; the message says why.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(deadline_s)
            connection.connect(str(socket_path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline(LINE_BYTES_MAX) or b"null")
    except (OSError, ValueError) as error:
        raise NotRunning(f"Nobody answers at {socket_path} ({error})", "Start the mesh with `make run`") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        reason = answer.get("reason", "") if isinstance(answer, dict) else "the answer was cut off"
        raise Refused(f"Refused: {reason}", "See docs/runbooks/drills.md")
    return answer
