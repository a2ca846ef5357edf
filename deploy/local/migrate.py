"""One-shot: the database itself where the cluster is ours, and every schema of the mesh. Run as often as you like.

Environment: ISTHMUS_DATABASE_URL.
"""

import psycopg
from psycopg import sql
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

from mesh.database.migrate import migrate

CONNECT_DEADLINE_S = 10


class MigrateSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", extra="ignore")

    database_url: str


def create_database(url: str) -> None:
    """Make the database that `url` names, when its server does not have it yet and we may."""
    target = make_url(url)
    server = target.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True, connect_timeout=CONNECT_DEADLINE_S) as connection:
        there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (target.database,)).fetchone()
        if there is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(str(target.database))))


def main() -> None:
    settings = MigrateSettings()
    target = make_url(settings.database_url)
    # Over a socket it is the launcher's own cluster; a server of somebody else's has its database made by its owner.
    if not target.host:
        create_database(settings.database_url)
    for schema, revision in migrate(settings.database_url).items():
        print(f'{{"event": "migrated", "schema": "{schema}", "revision": "{revision}"}}')


if __name__ == "__main__":
    main()
