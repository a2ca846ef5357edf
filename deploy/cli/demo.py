"""`isthmus demo`: real traffic through a mesh of its own, faults on purpose, and a verdict."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.output import Json, clear_errors

Files = Annotated[
    list[Path] | None,
    typer.Option(exists=True, dir_okay=False, help="Impressions to replay, in the format of the Open Bandit Dataset."),
]
File = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Purchases to replay, in the format of CDNOW.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Replay no more than this many rows of each file.")]


def demo(impressions: Files = None, transactions: File = None, limit: Limit = None, as_json: Json = False) -> None:
    """Start the mesh, drive traffic through it, break it on purpose, verify, print a table, stop.

    Exit status 0 only if every check held.
    """
    with clear_errors():
        from chaos.demo.main import demo as run_demo

        raise typer.Exit(run_demo(impressions, transactions, limit, as_json))
