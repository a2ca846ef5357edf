"""A healthy log of three signed batches, and a copy of it for each test that harms one."""

import secrets
import shutil
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from mesh.database.migrate import Owner, migrate
from security.audit import postgres as audit_postgres
from security.audit.checkpoint import SIGNING_KEY
from security.audit.note import Signer
from tests.integration.audit.kept_log import BATCH, BATCHES, ORIGIN, Log, record
from tests.integration.room import plain


@pytest.fixture(scope="module")
def healthy(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Log:
    migrate(postgres_url, [Owner.beside(audit_postgres.__file__)])
    home = tmp_path_factory.mktemp("healthy")
    log = Log(postgres_url, home, Signer.open_or_create(home / SIGNING_KEY, ORIGIN))
    for batch in range(BATCHES):
        log.write(*(record(batch * BATCH + number) for number in range(BATCH)))
        log.sign()
    return log


@pytest.fixture
def log(healthy: Log, tmp_path: Path) -> Log:
    return copied(healthy, tmp_path)


def copied(healthy: Log, home: Path) -> Log:
    """A copy of the healthy log, in a database of its own."""
    parsed, name = make_url(healthy.url), f"log_{secrets.token_hex(4)}"
    with psycopg.connect(plain(parsed.set(database="postgres").render_as_string(False)), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {parsed.database}")
    shutil.copytree(healthy.home, home, dirs_exist_ok=True)
    return Log(parsed.set(database=name).render_as_string(False), home, healthy.signer)
