"""Faults of processes, as the launcher makes them: each with a time to live, after which the launcher heals it."""

import asyncio
import contextlib
import os
import resource
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import psutil
import psycopg

from deploy.local import links, replication, slow_disk, small_disk, spoiling
from deploy.local.errors import LauncherError
from deploy.local.leases import BadFault, Leases
from deploy.local.networks import CABLE, Networks
from deploy.local.restore import restore
from deploy.local.settings import Home
from deploy.local.supervisor import Child, Supervisor
from deploy.local.table import Row

# A starved process gets its share once in this time.
TURN_S = 0.2
SKEWED = "deploy.local.skewed"
SKEW_S_MAX = 86_400
FREE_BYTES_MAX = 1 << 30
# Calls between the zones are made by the public one.
SENDS = {"public": "there", "private": "back"}


class Faults:
    """What the launcher's door does. One mesh, one instance."""

    def __init__(
        self, supervisor: Supervisor, home: Home, backed_up: Path | None = None, networks: Networks | None = None
    ) -> None:
        self._backed_up = backed_up
        self._networks = networks
        self._cut = False
        self._supervisor = supervisor
        self._home = home
        self._leases = Leases()
        # Copies of leaves as thieves have them, by process.
        self._stolen: spoiling.Stolen = {}
        self.does: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "active": self._active,
            "add": self._add,
            "kill": self._kill,
            "freeze": self._freeze,
            "hold": self._hold,
            "exhaust-files": self._exhaust_files,
            "exhaust-memory": self._exhaust_memory,
            "starve": self._starve,
            "skew-clock": self._skew_clock,
            "fill-disk": self._fill_disk,
            "slow-disk": self._slow_disk,
            "steal-identity": self._steal_identity,
            "spoil-identity": self._spoil_identity,
            "lose-identity": self._lose_identity,
            "lose-data": self._lose_data,
            "disturb": self._disturb,
            "heal": self._heal,
        }

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            BadFault: an unknown verb, an unknown process or a bad time to live; nothing was touched.
        """
        do = self.does.get(request["do"])
        if do is None:
            raise BadFault(f"the door does not do {request['do']!r}; it does {', '.join(self.does)}")
        return await do(request)

    @property
    def leases(self) -> list[dict[str, object]]:
        return self._leases.active()

    async def close(self) -> None:
        """Heal whatever is still broken."""
        await self._leases.end(None)

    async def _active(self, request: dict[str, Any]) -> dict[str, Any]:
        states = {name: str(child.state) for name, child in self._supervisor.children.items()}
        more = {"links": [CABLE] if self._networks else [], "backup": str(self._backed_up or "")}
        return {"leases": self._leases.active(), "states": states, "spares": self._spares(), **more}

    def _spares(self) -> list[str]:
        children = self._supervisor.children
        return sorted(name for name, child in children.items() if child.row.spare and not child.wanted.is_set())

    async def _add(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let so many spare nodes of a workload run. At the end they are drained: nobody is sent there, what they have
        is done, and then they go."""
        nodes, workload, children = request.get("nodes"), request.get("workload"), self._supervisor.children
        there = [name for name in self._spares() if children[name].row.process.workload == workload]
        if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= len(there):
            raise BadFault(f"{workload} has {len(there)} spare nodes (ISTHMUS_EDGE_SPARES)")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        names = there[:nodes]

        async def drain() -> None:
            await asyncio.gather(*map(self._supervisor.suspend, names))

        self._leases.begin(key, f"{', '.join(names)} added", ttl_s, drain)
        for name in names:
            await self._supervisor.resume(name)
        return {"added": names}

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

    async def _skew_clock(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a process of the mesh anew by a clock that is so many seconds ahead; behind where it is negative."""
        child = self._running(request)
        seconds, row = request.get("seconds"), child.row
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < abs(seconds) <= SKEW_S_MAX:
            raise BadFault(f"seconds is a number that is not 0, {SKEW_S_MAX} at most either way")
        if row.command[:2] != (sys.executable, "-m"):
            raise BadFault(f"{row.name}: only a clock of the mesh's own processes can be set")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        wrong = (sys.executable, "-m", SKEWED, str(float(seconds)), *row.command[2:])

        async def set_right() -> None:
            await self._start_as(child, row)

        self._leases.begin(key, f"{row.name} with its clock off by {seconds:g} s", ttl_s, set_right)
        await self._start_as(child, replace(row, command=wrong))
        return {}

    async def _fill_disk(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a process anew on a disk on which so many bytes are free. What it keeps comes back with the healing."""
        child = self._running(request)
        free, name = request.get("free_bytes"), child.row.name
        if isinstance(free, bool) or not isinstance(free, int) or not 0 <= free <= FREE_BYTES_MAX:
            raise BadFault(f"free_bytes is a whole number up to {FREE_BYTES_MAX}")
        if not small_disk.possible():
            raise BadFault("a disk of its own takes root, mkfs.ext4 and loop devices")
        directory = next((one for one in (self._home.data(name), self._home.spool(name)) if one.is_dir()), None)
        if directory is None:
            raise BadFault(f"{name} keeps nothing on a disk")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))

        async def give_room() -> None:
            await self._supervisor.suspend(name)
            try:
                await asyncio.to_thread(small_disk.take, directory)
            finally:
                await self._supervisor.resume(name)

        self._leases.begin(key, f"{name} with a disk that is full", ttl_s, give_room)
        await self._supervisor.suspend(name)
        try:
            await asyncio.to_thread(small_disk.put, directory, free)
        finally:
            await self._supervisor.resume(name)
        return {}

    async def _slow_disk(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let every commit of a PostgreSQL node wait so much longer for its log to be on the disk."""
        child = self._running(request)
        ms, name = request.get("latency_ms"), child.row.name
        if isinstance(ms, bool) or not isinstance(ms, int | float) or not 0 < ms <= slow_disk.MS_MAX:
            raise BadFault(f"latency_ms is more than 0 and at most {slow_disk.MS_MAX}")
        if child.row.process.workload != "postgres":
            raise BadFault(f"{name}: only a PostgreSQL node's disk can be slowed")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))

        async def quick() -> None:
            await slow_disk.quick(self._home, name)

        try:
            await slow_disk.slow(self._home, name, ms)
        except (psycopg.Error, OSError) as error:
            raise BadFault(f"{name} does not take it: {error}") from error
        self._leases.begin(key, f"{name} with a slow disk", ttl_s, quick)
        return {}

    async def _steal_identity(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep a copy of a process' leaf and key, as a thief would. No lease: nothing is changed."""
        child = self._running(request)
        if child.row.identity is None:
            raise BadFault(f"{child.row.name} has no identity to steal")
        self._stolen[child.row.name] = await asyncio.to_thread(spoiling.stolen, child.row.identity.parent)
        return {}

    async def _spoil_identity(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give a process a leaf that nobody may accept: `expired`, a `stranger`'s, or `revoked`: the stolen one of a
        root that was replaced since. Its zone's agent would replace it at its next look."""
        child = self._running(request)
        live = child.row.identity
        if live is None:
            raise BadFault(f"{child.row.name} has no identity to spoil")
        how = request.get("how")
        if how not in spoiling.WAYS:
            raise BadFault(f"how is one of {', '.join(spoiling.WAYS)}")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        kept = self._stolen.get(child.row.name)
        restore = await spoiling.spoil(self._home, child.row.process, live.parent, how, kept)
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

    async def _disturb(self, request: dict[str, Any]) -> dict[str, Any]:
        """Cut the cable between the zones' own networks: what the public zone sends `there`, or what comes `back`."""
        networks = self._networks
        if networks is None or request.get("link") != CABLE:
            raise BadFault(f"{request.get('link')!r} is no link of the launcher's (ISTHMUS_ZONE_NETWORKS)")
        fault = links.fault(request)
        if fault.mode != "black-hole":
            raise BadFault(f"the cable between the zones can be cut (black-hole), and not be {fault.mode}")
        key, ttl_s = self._leases.check(request.get("lease"), request.get("ttl_s"))
        if self._cut:
            raise BadFault("the cable between the zones is cut already")
        silenced = [zone for zone, way in SENDS.items() if way in fault.directions]

        async def join() -> None:
            await asyncio.to_thread(networks.mend)
            self._cut = False

        self._cut = True
        self._leases.begin(key, f"link {CABLE}: {fault.mode}", ttl_s, join)
        await asyncio.to_thread(networks.cut, silenced)
        return {}

    async def _heal(self, request: dict[str, Any]) -> dict[str, Any]:
        """One lease, or all when none is named."""
        return {"healed": await self._leases.end(request.get("lease"))}

    async def _start_as(self, child: Child, row: Row) -> None:
        await self._supervisor.suspend(row.name)
        child.row = row
        await self._supervisor.resume(row.name)

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
