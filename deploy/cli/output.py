"""How every command speaks: JSON or a table on standard output, one clear line on standard error when it fails."""

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console

from deploy.local.errors import LauncherError

PIPE_WIDTH = 200
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def console() -> Console:
    """Standard output; into a file or a pipe, lines are as long as their content wants."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turn an expected failure into one line with its remedy, and its own exit status."""
    try:
        yield
    except LauncherError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]isthmus:[/] {error}", markup=True)
        raise typer.Exit(error.exit_code) from error
