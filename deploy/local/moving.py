"""The mesh's database, copied to another server while nobody writes."""

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from deploy.local import postgres
from deploy.local.errors import LauncherError
from deploy.local.mesh import LocalMesh
from deploy.local.settings import LauncherSettings
from mesh.database.migrate import migrate, owners

COPY_S_MAX: Final = 3600.0
_CONNECT_S: Final = 10
_TABLES: Final = """
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND nspname = ANY(%s) ORDER BY 1, 2
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
        LauncherError: a mesh runs, the database is not empty, or the copy differs.
    """
    async with LocalMesh(settings.home, only=("migrate",)) as mesh:
        source = _libpq(mesh.database_url)
        there = _count(_libpq(target), tell, "looking at the new database")
        if there:
            raise LauncherError(f"The new database has {len(there)} tables of a mesh", "Name an empty database")
        before = _count(source, tell, "counting")
        tell(f"copying {len(before)} tables, {sum(before.values()):,} rows")
        _copy(source, _libpq(target))
        tell("making roles and rights")
        migrate(_sqlalchemy(target))
        after = _count(_libpq(target), tell, "comparing")
    if differing := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise LauncherError(f"The copy differs in {', '.join(differing)}", "Empty the new database and try again")
    return Moved(len(after), sum(after.values()))


def _copy(source: str, target: str) -> None:
    programs = postgres.binaries()
    # Owner and rights are the new server's: migrate() gives them as the contract of the roles says.
    dump = [str(programs / "pg_dump"), "--format=custom", "--no-owner", "--no-privileges", f"--dbname={source}"]
    dump += [argument for owner in owners() for argument in ("--schema", owner.schema)]
    load = [str(programs / "pg_restore"), "--no-owner", "--exit-on-error", "--single-transaction", f"--dbname={target}"]
    command = f"set -o pipefail; {shlex.join(dump)} | {shlex.join(load)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=COPY_S_MAX)
    if done.returncode:
        raise LauncherError(f"The copy failed: {done.stderr.strip()[-300:]}", "The old database is as it was")


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
