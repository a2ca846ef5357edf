"""Roles of the database: what a workload's process may do in it, and nothing besides.

An owner's folder `migrations` may hold `grants.sql`: which roles may do what in its schema. A workload that some grants
name, as isthmus_<workload>, connects as that role. Grants are said anew after every migration, so they hold for new
tables as well. Roles belong to the whole server: a dump of one database that is restored on another has none, and gets
them with its next migration.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, make_url, text

GRANTS: Final = "grants.sql"
_ROLE: Final = re.compile(r"\bisthmus_[a-z_]+\b")


def as_role(url: str, workload: str, migrations: Iterable[Path]) -> str:
    """The URL for the workload's own role; as it is where no grants in the folders name one."""
    role = f"isthmus_{workload.replace('-', '_')}"
    if not any(role in _named(grants) for grants in _found(migrations)):
        return url
    return make_url(url).set(username=role).render_as_string(hide_password=False)


def grant(connection: Connection, migrations: Iterable[Path]) -> None:
    """Make the roles that are missing, and let each do what the folders' grants say."""
    for grants in _found(migrations):
        for role in sorted(_named(grants)):
            # Two databases of one server may be migrated at once.
            made = f"CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;"
            connection.execute(text(f"DO $$ BEGIN {made} END $$"))
        connection.exec_driver_sql(grants.read_text())


def _found(migrations: Iterable[Path]) -> list[Path]:
    return [folder / GRANTS for folder in migrations if (folder / GRANTS).exists()]


def _named(grants: Path) -> set[str]:
    return set(_ROLE.findall(grants.read_text()))
