"""The database of a mesh that stands still, copied whole to another server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import make_url

from deploy.local import postgres
from deploy.local.errors import LauncherError
from deploy.local.mesh import LocalMesh
from deploy.local.migrate import create_database
from deploy.local.moving import copy_database
from tests.integration.room import own, plain
from tests.ports import free_port_base


@pytest.fixture
def target(postgres_server: LocalMesh) -> Iterator[str]:
    """An empty database of another server."""
    url = postgres.url(postgres_server.home, "moved")
    create_database(url)
    yield url
    with psycopg.connect(plain(postgres.url(postgres_server.home, "postgres")), autocommit=True) as connection:
        connection.execute("DROP DATABASE moved WITH (FORCE)")


async def test_every_row_is_in_the_other_database_and_every_role_may_what_it_may(target: str, tmp_path: Path) -> None:
    async with LocalMesh(tmp_path, free_port_base(), only=("migrate",)) as mesh:
        with psycopg.connect(plain(mesh.database_url), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO bridge.checkpoint (topic, partition, topic_id, epoch, worker, next_offset)"
                " VALUES ('t', 0, 'id', 7, 'w', 42)"
            )
        settings = mesh.settings
        with pytest.raises(LauncherError):
            await copy_database(settings, target, print)
    told: list[str] = []
    moved = await copy_database(settings, target, told.append)
    assert moved.rows >= 1
    assert any("copying" in line for line in told)

    def found() -> list[tuple[int, int]]:
        with psycopg.connect(plain(own(target, "bridge-inbound"))) as connection:
            return connection.execute("SELECT epoch, next_offset FROM bridge.checkpoint").fetchall()

    assert await asyncio.to_thread(found) == [(7, 42)]
    with pytest.raises(LauncherError, match="an empty database"):
        await copy_database(settings, target, print)


async def test_no_password_is_an_argument(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real programs, behind scripts that write down how they are called."""
    real, called = postgres.binaries(), tmp_path / "called"
    for name in ("pg_dump", "pg_restore"):
        script = f'#!/bin/sh\nprintf "%s %s\\n" "$PGPASSWORD" "$*" >> {called}-{name}\nexec {real / name} "$@"\n'
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o700)
    async with LocalMesh(tmp_path / "home", free_port_base(), only=("migrate",)) as mesh:
        settings = mesh.settings
    secret = make_url(target).set(password="hush:@/hush")
    monkeypatch.setattr("deploy.local.moving.postgres", SimpleNamespace(binaries=lambda: tmp_path))
    await copy_database(settings, secret.render_as_string(hide_password=False), lambda _: None)
    told = (tmp_path / "called-pg_restore").read_text()
    assert told.startswith("hush:@/hush ")
    assert told.count("hush:@/hush") == 1
    assert "hush" not in (tmp_path / "called-pg_dump").read_text()
    hidden = secret.update_query_dict({"sslpassword": "hush"}).render_as_string(hide_password=False)
    with pytest.raises(LauncherError, match="sslpassword"):
        await copy_database(settings, hidden, lambda _: None)
