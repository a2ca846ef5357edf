"""What happens when the primary of two PostgreSQL nodes dies: the copy takes over, and no answered commit is lost.

Patroni's rules, for two nodes and one judge. While the copy streams, commits wait for it; only then may it take over.
They wait for the receiver of a backup's log in the same way (backup.py).
Before it does, the old primary is made to end, and comes back as nothing but a copy of the new one. Where the copy is
away, the primary goes on alone, and is waited for when it dies.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from signal import SIGKILL
from typing import Any

import psycopg
from psycopg import sql

from deploy.local import postgres, replication
from deploy.local.errors import LauncherError
from deploy.local.replication import SYNCHRONOUS, Roles
from deploy.local.settings import Home
from deploy.local.supervisor import State, Supervisor

LOOK_S = 0.5
LOOK_DEADLINE_S = 1.5
# A primary that was only started again is back within this.
DOWN_S = 2.5
PROMOTE_S = 20
# Whom commits wait for, and which of those that they are to wait for stream, by name.
COPIES = """
SELECT current_setting(%s), coalesce(json_object_agg(application_name, sync_state), '{}')
FROM pg_stat_replication WHERE application_name = ANY(%s) AND state = 'streaming'
"""


class Failover:
    """One instance for the life of the mesh, on the supervisor's loop. `copies`: whom commits are to wait for; of the
    nodes among them, the primary itself is never one."""

    def __init__(self, home: Home, supervisor: Supervisor, copies: frozenset[str]) -> None:
        self._copies = copies
        self._home = home
        self._supervisor = supervisor
        self._down_since: float | None = None

    async def run(self) -> None:
        """Look twice a second, until cancelled."""
        while True:
            # A look that fails is made again; what it could not do is not done.
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError, LauncherError):
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Keep commits waiting for the copy while there is one; let it take over when the primary has been away."""
        roles, now = replication.read(self._home), time.monotonic()
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                await self._keep_synchronous(roles)
        except (psycopg.Error, OSError, TimeoutError):
            self._down_since = self._down_since or now
            if roles.synchronous and now - self._down_since >= DOWN_S and not self._starts(roles.primary):
                await self._fail_over(roles)
                self._down_since = None
        else:
            self._down_since = None

    async def _keep_synchronous(self, roles: Roles) -> None:
        connection = await postgres.connect(self._home, roles.primary)
        async with connection:
            found = await connection.execute(COPIES, [SYNCHRONOUS, sorted(self._copies - {roles.primary})])
            waited_for, streaming = await found.fetchone() or ("", {})
            if roles.synchronous and roles.standby not in streaming:
                # First the promise, then what it stood on.
                replication.write(self._home, Roles(roles.primary))
            if waited_for != _all_of(streaming):
                await _wait_for(connection, _all_of(streaming))
            elif streaming.get(roles.standby) == "sync" and not roles.synchronous:
                # A commit that waited for the copy: all that was answered before it is there, too.
                await connection.execute("SELECT pg_logical_emit_message(true, 'isthmus', '')")
                replication.write(self._home, Roles(roles.primary, synchronous=True))

    def _starts(self, node: str) -> bool:
        """Whether it is about to run again under the role that it has."""
        child = self._supervisor.children[node]
        return child.state is State.STARTING and child.pid is None

    async def _fail_over(self, roles: Roles) -> None:
        old = self._supervisor.children[roles.primary]
        # One that is held down on purpose stays so.
        held = not old.wanted.is_set()
        connection = await postgres.connect(self._home, roles.standby)
        async with connection:
            old.wanted.clear()
            try:
                with contextlib.suppress(LauncherError, ProcessLookupError):
                    self._supervisor.kill(roles.primary, SIGKILL)
                await self._supervisor.suspend(roles.primary)
                replication.write(self._home, Roles(roles.standby))
                await connection.execute("SELECT pg_promote(true, %s)", [PROMOTE_S])
            finally:
                if not held:
                    await self._supervisor.resume(roles.primary)


def _all_of(streaming: Mapping[str, str]) -> str:
    """In the words of synchronous_standby_names: all of them, by name, for whoever else streams makes no promise."""
    names = ", ".join(f'"{name}"' for name in sorted(streaming))
    return f"FIRST {len(streaming)} ({names})" if streaming else ""


async def _wait_for(connection: psycopg.AsyncConnection[Any], copies: str) -> None:
    """Which copies a commit waits for, from now on."""
    setting = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(SYNCHRONOUS), sql.Literal(copies))
    await connection.execute(setting)
    await connection.execute("SELECT pg_reload_conf()")
