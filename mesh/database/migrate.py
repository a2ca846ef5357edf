"""Schemas and their migrations: each owner keeps its own beside its code, and all are applied in one go.

An owner is a folder `migrations/versions` in a room. Its schema is the room's name, or what `migrations/schema.txt`
says. The version table lies in that schema, so owners know nothing of each other.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database import roles
from mesh.database.engine import engine as new_engine
from mesh.database.engine import execute
from mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

ROOT: Final = Path(__file__).resolve().parents[2]
# Any number will do, as long as all migrators of one database agree on it.
ADVISORY_LOCK: Final = 4_717_318_400
LOCK_WAIT_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose migrations, and in which schema."""

    schema: str
    versions: Path

    @classmethod
    def beside(cls, file: str) -> "Owner":
        """The owner whose room holds `file`: Owner.beside(__file__) in a room's main."""
        return _owner(Path(file).resolve().parent / "migrations" / "versions")


def owners(root: Path = ROOT) -> tuple[Owner, ...]:
    """Every owner found by convention, ordered by schema."""
    patterns = (
        "private_core/*/migrations/versions",
        "security/*/migrations/versions",
        "sync_bridge/*/migrations/versions",
    )
    found = sorted((_owner(path) for pattern in patterns for path in root.glob(pattern)), key=lambda one: one.schema)
    schemas = [one.schema for one in found]
    if len(set(schemas)) != len(schemas):
        raise FailedPrecondition("SCHEMA_SHARED", f"two owners claim one schema: {', '.join(schemas)}")
    return tuple(found)


def migrate(url: str, owned: Iterable[Owner] | None = None) -> dict[str, str]:
    """Bring the schemas of `owned` (all by default) to their newest revision, in one transaction. Returns schema: head.

    Safe to run by several at once: the others wait. When one migration fails, nothing has changed.
    """
    engine = new_engine(url, "migrate", pool_size=1, statement_timeout_ms=LOCK_WAIT_MS)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
            chosen = tuple(owners() if owned is None else owned)
            heads = {owner.schema: _upgrade(connection, owner) for owner in chosen}
            roles.grant(connection, (owner.versions.parent for owner in chosen))
            return heads
    finally:
        engine.dispose()


async def require_current(engine: AsyncEngine, owner: Owner) -> None:
    """Refuse to start on a schema that is older or newer than the code.

    Raises FailedPrecondition SCHEMA_NOT_CURRENT, with the remedy.
    """
    head = newest(owner)
    there = text("SELECT to_regclass(:name) IS NOT NULL")
    current: str | None = None
    if (await execute(engine, there, {"name": f"{owner.schema}.alembic_version"}))[0][0]:
        rows = await execute(engine, text(f'SELECT version_num FROM "{owner.schema}".alembic_version'))  # noqa: S608
        current = rows[0][0] if rows else None
    if current != head:
        raise FailedPrecondition(
            "SCHEMA_NOT_CURRENT",
            f"schema {owner.schema} is at revision {current or 'none'}, this program needs {head}",
            remedy="run `python -m deploy.local.migrate` with the same ISTHMUS_DATABASE_URL, then start again",
        )


def _owner(versions: Path) -> Owner:
    named = versions.parent / "schema.txt"
    schema = named.read_text().strip() if named.exists() else versions.parent.parent.name
    if not (schema.isidentifier() and schema.islower()):
        raise FailedPrecondition("SCHEMA_NAME_BAD", f"{schema!r} is no name for a schema")
    return Owner(schema, versions)


def newest(owner: Owner) -> str:
    """The revision that no other one follows, read from the scripts' text.

    Alembic would say the same, and takes a fifth of a second to load, which every process that uses SQL would pay.
    Raises FailedPrecondition when there is not exactly one.
    """
    stated = [dict(_names(script)) for script in sorted(owner.versions.glob("*.py"))]
    heads = {each.get("revision") for each in stated} - {each.get("down_revision") for each in stated}
    if len(heads) != 1:
        raise FailedPrecondition("MIGRATIONS_MISSING", f"{len(heads)} newest migrations in {owner.versions}, not one")
    return str(heads.pop())


def _names(script: Path) -> Iterator[tuple[str, object]]:
    for statement in ast.parse(script.read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)):
                yield name, value


def _upgrade(connection: Connection, owner: Owner) -> str:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    scripts = _scripts(owner)
    head = newest(owner)
    connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{owner.schema}"'))
    # Names without a schema in a migration mean the owner's own.
    connection.execute(text(f'SET LOCAL search_path TO "{owner.schema}"'))

    def steps(revisions: Sequence[str], _: "MigrationContext") -> list[Any]:
        return scripts._upgrade_revs(head, tuple(revisions))  # type: ignore[arg-type]

    with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=head) as environment:
        environment.configure(connection=connection, version_table_schema=owner.schema)
        environment.run_migrations()
    return head


def _scripts(owner: Owner) -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(owner.versions.parent), version_locations=[str(owner.versions)])
