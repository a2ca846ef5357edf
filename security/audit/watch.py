"""Watches the log for what the alert rules name, and tells whoever must know: the process's log, and a webhook."""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from mesh import telemetry
from mesh.errors import Unavailable
from mesh.files import PRIVATE_MODE, write_file
from mesh.logs import logger
from security.audit.alerts import Alert, AlertRules
from security.audit.store import AuditStore

ALERTS_CURSOR: Final = Path("run/audit/alerted.txt")
_PAGE: Final = 1000
# Leaves beyond it there are none.
_END: Final = 2**63 - 1
_PAGES_MAX: Final = 100
_WEBHOOK_S: Final = 5.0
# Alerts that wait for the webhook; more are in the log alone.
_WAITING_MAX: Final = 1000


class AlertWatch:
    """cursor: the file in which it keeps how far it has looked and told, so that what came while it was away is looked
    at as well; without one it begins with what is new. An alert may come twice and is not lost, unless more than
    _WAITING_MAX wait for the webhook. What rules have counted so far is forgotten with the process.
    """

    def __init__(self, store: AuditStore, rules: AlertRules, webhook: str | None, cursor: Path) -> None:
        self._store = store
        self._cursor = cursor
        self._kept: int | None = None
        self._rules = rules
        self._webhook = webhook
        self._next_leaf: int | None = None
        self._waiting: list[Alert] = []
        self._log = logger("alerts")
        self._count = telemetry.meter().create_counter("audit.alerts")

    async def round(self) -> None:
        """Look at every leaf that is new. Raises MeshError."""
        if self._next_leaf is None:
            newest = await self._store.checkpoints(0, 1, newest_first=True)
            size = newest[0].tree_size if newest else 0
            # A log that is shorter now was restored, or cut: which of them, a verification tells.
            self._next_leaf = min(self._read(size), size)
        for _ in range(_PAGES_MAX):
            page = await self._store.leaves(self._next_leaf, _END, _PAGE)
            for stored in page:
                for alert in self._rules.take(stored.record):
                    self._raise(alert)
                self._next_leaf = (stored.leaf_index or 0) + 1
            if len(page) < _PAGE:
                break
        await self._tell()
        if not self._waiting and self._next_leaf != self._kept:
            try:
                await asyncio.to_thread(write_file, self._cursor, f"{self._next_leaf}\n".encode(), PRIVATE_MODE)
            except OSError as error:
                self._log.warning("how far the log was watched cannot be kept", error=type(error).__name__)
            else:
                self._kept = self._next_leaf

    def _read(self, size: int) -> int:
        try:
            return max(int(self._cursor.read_text()), 0)
        except (FileNotFoundError, ValueError):
            return size
        except OSError as error:
            raise Unavailable("CURSOR_UNREADABLE", f"{self._cursor}: {type(error).__name__}") from error

    def _raise(self, alert: Alert) -> None:
        self._count.add(1, {"rule": alert.rule})
        self._log.error("alert", **msgspec.structs.asdict(alert))
        if self._webhook and len(self._waiting) < _WAITING_MAX:
            self._waiting.append(alert)

    async def _tell(self) -> None:
        """Post what waits, all in one. What cannot be posted is tried again with what comes next."""
        if not self._waiting or not self._webhook:
            return
        body = msgspec.json.encode({"alerts": self._waiting})
        headers = {"content-type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WEBHOOK_S)) as session,
                session.post(self._webhook, data=body, headers=headers) as answer,
            ):
                answer.raise_for_status()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._log.error("alerts wait for the webhook", alerts=len(self._waiting), error=type(error).__name__)
            return
        self._waiting.clear()
