"""Alerts reach the webhook, also those of what happened while nobody watched or nobody took them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from mesh.contract import load
from mesh.database.engine import async_engine
from security.audit.alerts import AlertRules, Rule
from security.audit.record import Decision
from security.audit.store import AuditStore
from security.audit.watch import AlertWatch
from tests.integration.audit.kept_log import LEAVES, Log, record
from tests.integration.room import own


class Hook:
    """A webhook, and all that it took."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        if self.status == 200:
            self.taken += json.loads(await request.text())["alerts"]
        return web.Response(status=self.status)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application()
    app.router.add_post("/", hook.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield hook
    await runner.cleanup()


async def test_what_came_while_nobody_watched_or_took_alerts_is_told_later(
    log: Log, hook: Hook, tmp_path: Path
) -> None:
    engine = async_engine(own(log.url, "audit"))
    rules = [Rule("denied", decision="denied", by="token_subject")]

    def watch() -> AlertWatch:
        """A process that has just been started."""
        cursor = tmp_path / "alerted.txt"
        return AlertWatch(AuditStore(engine), AlertRules(rules, load()), hook.url, cursor)

    async def denied(subject: str) -> None:
        await log.written(replace(record(LEAVES), token_subject=subject, decision=Decision.DENIED))

    def told() -> list[str]:
        return [alert["caller"] for alert in hook.taken]

    await denied("before-the-first-start")
    first = watch()
    await first.round()
    await denied("while-it-watched")
    await first.round()
    assert told() == ["while-it-watched"]
    await denied("while-it-was-away")
    second = watch()
    await second.round()
    assert told() == ["while-it-watched", "while-it-was-away"]
    hook.status = 503
    await denied("while-the-hook-was-away")
    await second.round()
    hook.status = 200
    # It was not told, so the next process tells it.
    await watch().round()
    assert told()[2:] == ["while-the-hook-was-away"]
    await watch().round()
    assert len(told()) == 3
    await engine.dispose()
