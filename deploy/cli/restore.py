"""`isthmus restore`: a database from its backup, in a home that has none."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.output import Json, clear_errors, console, print_json


def restore(
    directory: Annotated[Path, typer.Argument(help="What ISTHMUS_BACKUP was.")],
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"],
            help="Leave out what was committed later than this, in UTC.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore the private zone's database into ISTHMUS_HOME, for the next `isthmus run`.

    Refused where there is a database already, a mesh runs, or the backup is another region's (ISTHMUS_REGION). Keys are
    not in a backup: bring data/keys, ca, run/oauth and run/seals from where they are kept.
    """
    with clear_errors():
        found = asyncio.run(_restore(directory, until.replace(tzinfo=UTC) if until else None))
    if as_json:
        print_json(found)
        return
    last = found["last_commit"] or "none since the copy was made"
    console().print(f"[green]restored[/] from the copy of {found['copy']} in {found['seconds']} s; last commit: {last}")


async def _restore(directory: Path, until: datetime | None) -> dict[str, Any]:
    from deploy.local import preflight, restore
    from deploy.local.settings import LauncherSettings

    settings = LauncherSettings()
    home = settings.layout
    with preflight.open_home(home):
        done = await restore.restore(home, directory, until=until, region=settings.region)
    return {
        "copy": done.copy.isoformat(),
        "last_commit": done.last_commit.astimezone(UTC).isoformat() if done.last_commit else None,
        "seconds": done.seconds,
    }
