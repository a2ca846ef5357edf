"""Faults of processes, as the launcher makes them: each with a time to live, after which the launcher heals it."""

import asyncio
import contextlib
import os
import resource
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import psutil

from deploy.local import replication, spoiling
from deploy.local.errors import LauncherError
from deploy.local.leases import BadFault, Leases
from deploy.local.restore import restore
from deploy.local.settings import Home
from deploy.local.supervisor import Child, Supervisor

# A starved process gets its share once in this time.
TURN_S = 0.2


class Faults:
    """What the launcher's door does. One mesh, one instance."""

    def __init__(self, supervisor: Supervisor, home: Home, backed_up: Path | None = None) -> None:
        self._backed_up = backed_up
        self._supervisor = supervisor
        self._home = home
        self._leases = Leases()
        self._does: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "active": self._active,
            "kill": self._kill,
            "freeze": self._freeze,
            "hold": self._hold,
            "exhaust-files": self._exhaust_files,
            "exhaust-memory": self._exhaust_memory,
            "starve": self._starve,
            "spoil-identity": self._spoil_identity,
            "lose-identity": self._lose_identity,
            "lose-data": self._lose_data,
            "heal": self._heal,
        }

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            BadFault: an unknown verb, an unknown process or a bad time to live; nothing was touched.
        """
        do = self._does.get(request["do"])
        if do is None:
            raise BadFault(f"the door does not do {request['do']!r}; it does {', '.join(self._does)}")
        return await do(request)

    async def close(self) -> None:
        """Heal whatever is still broken."""
        await self._leases.end(None)

    async def _active(self, request: dict[str, Any]) -> dict[str, Any]:
        states = {name: str(child.state) for name, child in self._supervisor.children.items()}
        return {"leases": self._leases.active(), "states": states}

    async def _kill(self, request: dict[str, Any]) -> dict[str, Any]:
        """SIGKILL. No lease: the supervisor starts it again by itself."""
        child = self._running(request)
        return {"pid": self._supervisor.kill(child.row.name, SIGKILL)}

    async def _freeze(self, request: dict[str, Any]) -> dict[str, Any]:
        child = self._running(request)
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        process, pid = child.process, self._supervisor.kill(child.row.name, SIGSTOP)

        async def thaw() -> None:
            # The pid is ours as long as this very child has not been reaped.
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, SIGCONT)

        self._leases.begin(key, f"{child.row.name} frozen", ttl_s, thaw)
        return {"pid": pid}

    async def _hold(self, request: dict[str, Any]) -> dict[str, Any]:
        """Stop it and keep it down. With `abruptly` it gets a SIGKILL first, as a machine that fails would give it."""
        child = self._running(request)
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        name = child.row.name

        async def release() -> None:
            await self._supervisor.resume(name)

        # The lease first: whatever becomes of the stopping, it may run again later.
        self._leases.begin(key, f"{name} held down", ttl_s, release)
        if request.get("abruptly"):
            child.wanted.clear()
            with contextlib.suppress(ProcessLookupError):
                self._supervisor.kill(name, SIGKILL)
        await self._supervisor.suspend(name)
        return {}

    async def _exhaust_files(self, request: dict[str, Any]) -> dict[str, Any]:
        """Allow no more file descriptors than are open now: nothing new can be opened or accepted."""
        child = self._running(request)
        used = sum(1 for _ in Path(f"/proc/{child.pid}/fd").iterdir())
        return self._limit(request, child, resource.RLIMIT_NOFILE, used, "files") | {"open": used}

    async def _exhaust_memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Allow no more memory than it has now: whatever asks for more fails, and may end the process."""
        child = self._running(request)
        has = psutil.Process(child.pid).memory_info().vms
        return self._limit(request, child, resource.RLIMIT_AS, has, "memory") | {"has": has}

    def _limit(self, request: dict[str, Any], child: Child, kind: int, most: int, of: str) -> dict[str, Any]:
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        process, pid = child.process, child.pid
        assert pid is not None
        try:
            before = resource.prlimit(pid, kind)
            hard = before[1] if before[1] != resource.RLIM_INFINITY else most
            resource.prlimit(pid, kind, (min(most, hard), before[1]))
        except OSError as error:
            raise BadFault(f"{child.row.name}: its limits are not ours to change: {error.strerror}") from error

        async def allow() -> None:
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, kind, before)

        self._leases.begin(key, f"{child.row.name} out of {of}", ttl_s, allow)
        return {"pid": pid}

    async def _starve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let a process run for this share of the time alone, as a machine does that has too much to do."""
        child = self._running(request)
        share = request.get("share")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise BadFault("share is more than 0 and less than 1")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        process, pid = child.process, child.pid
        assert process is not None
        assert pid is not None
        starving = asyncio.create_task(_run_now_and_then(process, pid, float(share)))

        async def feed() -> None:
            starving.cancel()
            await asyncio.gather(starving, return_exceptions=True)

        self._leases.begin(key, f"{child.row.name} starved", ttl_s, feed)
        return {"pid": pid}

    async def _spoil_identity(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give a process a leaf that nobody may accept: `expired`, or from a `stranger`'s authority. Its zone's agent
        would replace it at its next look."""
        child = self._running(request)
        live = child.row.identity
        if live is None:
            raise BadFault(f"{child.row.name} has no identity to spoil")
        how = request.get("how")
        if how not in spoiling.WAYS:
            raise BadFault(f"how is one of {', '.join(spoiling.WAYS)}")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        restore = await spoiling.spoil(self._home, child.row.process, live.parent, how)
        self._leases.begin(key, f"{child.row.name} with a leaf that is {how}", ttl_s, restore)
        return {}

    async def _lose_identity(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take away the link to a process' leaf. No lease: the zone's agent issues a new one at its next look."""
        child = self._running(request)
        if child.row.identity is None:
            raise BadFault(f"{child.row.name} has no identity to lose")
        child.row.identity.unlink(missing_ok=True)
        return {}

    async def _lose_data(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a PostgreSQL node away with all that it has. A primary gets it back from the backup, a standby from the
        primary; until then the old data lies aside, and is taken again if the backup is no good."""
        child = self._running(request)
        name = child.row.name
        if child.row.process.workload != "postgres" or self._backed_up is None:
            raise BadFault(f"{name}: only a PostgreSQL node that is backed up (ISTHMUS_BACKUP) may lose its data")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        data, backed_up = self._home.data(name), self._backed_up
        aside = data.with_name(f"{name}.lost")

        async def bring_back() -> None:
            try:
                if replication.read(self._home).primary == name:
                    await restore(self._home, backed_up, name)
            except LauncherError:
                aside.rename(data)
                raise
            else:
                shutil.rmtree(aside, ignore_errors=True)
            finally:
                await self._supervisor.resume(name)

        self._leases.begin(key, f"{name} lost with its data", ttl_s, bring_back)
        child.wanted.clear()
        with contextlib.suppress(ProcessLookupError):
            self._supervisor.kill(name, SIGKILL)
        await self._supervisor.suspend(name)
        shutil.rmtree(aside, ignore_errors=True)
        data.rename(aside)
        return {}

    async def _heal(self, request: dict[str, Any]) -> dict[str, Any]:
        """One lease, or all when none is named."""
        return {"healed": await self._leases.end(request.get("lease"))}

    def _running(self, request: dict[str, Any]) -> Child:
        name = request.get("process")
        child = self._supervisor.children.get(name) if isinstance(name, str) else None
        if child is None or not child.row.command or child.row.one_shot:
            raise BadFault(f"{name!r} is no process of this mesh")
        if child.pid is None:
            raise BadFault(f"{name} is not running")
        return child


async def _run_now_and_then(process: asyncio.subprocess.Process, pid: int, share: float) -> None:
    try:
        while process.returncode is None:
            os.kill(pid, SIGSTOP)
            await asyncio.sleep(TURN_S * (1 - share))
            os.kill(pid, SIGCONT)
            await asyncio.sleep(TURN_S * share)
    except ProcessLookupError:
        return
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGCONT)
