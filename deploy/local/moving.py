"""The mesh's database, copied to another server while nobody writes."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.engine import make_url

from deploy.local import postgres
from deploy.local.errors import LauncherError
from deploy.local.mesh import LocalMesh
from deploy.local.settings import LauncherSettings
from mesh.database.migrate import migrate, owners

COPY_S_MAX: Final = 3600.0
_CONNECT_S: Final = 10
# From the end of what reads the dump to that of the dump.
_END_S: Final = 60.0
# What libpq takes from no variable.
_SECRETS: Final = frozenset({"sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
# An argument and an environment.
Told = tuple[str, dict[str, str]]
_TABLES: Final = """
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname = ANY(%s) ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Moved:
    """What stands in both: tables, and rows in all of them."""

    tables: int
    rows: int


async def copy_database(settings: LauncherSettings, target: str, tell: Callable[[str], None]) -> Moved:
    """Copy every schema into an empty database. No mesh may run: its writers wait meanwhile, with what they have.

    target: SQLAlchemy's or libpq's URL of a role that may make schemas and roles. tell: is told what is being done.

    Raises:
        LauncherError: a mesh runs, the URL has a secret that would be seen, the database is not empty, or the copy
            differs.
    """
    into = _told(_libpq(target))
    async with LocalMesh(settings.home, only=("migrate",)) as mesh:
        source = _libpq(mesh.database_url)
        there = _count(_libpq(target), tell, "looking at the new database")
        if there:
            raise LauncherError(f"The new database has {len(there)} tables of a mesh", "Name an empty database")
        before = _count(source, tell, "counting")
        tell(f"copying {len(before)} tables, {sum(before.values()):,} rows")
        _copy(_told(source), into)
        tell("making roles and rights")
        migrate(_sqlalchemy(target))
        after = _count(_libpq(target), tell, "comparing")
    if differing := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise LauncherError(f"The copy differs in {', '.join(differing)}", "Empty the new database and try again")
    return Moved(len(after), sum(after.values()))


def _copy(source: Told, target: Told) -> None:
    programs = postgres.binaries()
    # Owner and rights are the new server's: migrate() gives them as the contract of the roles says.
    dump = [str(programs / "pg_dump"), "--format=custom", "--no-owner", "--no-privileges"]
    dump += [argument for owner in owners() for argument in ("--schema", owner.schema)]
    load = [str(programs / "pg_restore"), "--no-owner", "--exit-on-error", "--single-transaction"]
    (reads, reader), (writes, writer) = source, target
    with tempfile.TemporaryFile() as said:
        dumping = subprocess.Popen([*dump, reads], stdout=subprocess.PIPE, stderr=said, env=reader)
        try:
            loading = subprocess.run(
                [*load, writes], stdin=dumping.stdout, stderr=said, env=writer, check=False, timeout=COPY_S_MAX
            )
            failed = dumping.wait(_END_S) or loading.returncode
        except subprocess.TimeoutExpired:
            raise LauncherError("The copy took too long", "The old database is as it was") from None
        finally:
            # Of a dump that nobody reads there is nothing to wait for.
            dumping.kill()
            dumping.communicate()
        said.seek(0)
        if failed:
            why = said.read().decode(errors="replace").strip()[-300:]
            raise LauncherError(f"The copy failed: {why}", "The old database is as it was")


def _told(url: str) -> Told:
    """The argument that names a database, and the environment for it, since others can read arguments.

    Raises LauncherError for what would have to be an argument.
    """
    named = conninfo_to_dict(url)
    environment = dict(os.environ)
    if (password := named.pop("password", None)) is not None:
        environment["PGPASSWORD"] = str(password)
    if secret := sorted(named.keys() & _SECRETS):
        raise LauncherError(f"A URL with {secret[0]} would be seen by others", "Name a service of ~/.pg_service.conf")
    return f"--dbname={make_conninfo('', **named)}", environment


def _count(url: str, tell: Callable[[str], None], what: str) -> dict[str, int]:
    """Rows of every table of our schemas, at one moment."""
    tell(what)
    try:
        with psycopg.connect(url, connect_timeout=_CONNECT_S) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            tables = connection.execute(_TABLES, ([owner.schema for owner in owners()],)).fetchall()
            found = {}
            for schema, table in tables:
                name = sql.SQL(".").join((sql.Identifier(schema), sql.Identifier(table)))
                ((rows,),) = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchall()
                found[f"{schema}.{table}"] = int(rows)
            return found
    except psycopg.Error as error:
        why = str(error).strip().splitlines()
        raise LauncherError(f"A database does not answer: {why[0] if why else ''}", "Look at the URL") from error


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _sqlalchemy(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
