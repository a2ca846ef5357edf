"""`isthmus config`: what the launcher's settings come to."""

from typing import Any

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="What the settings come to.", no_args_is_help=True)


@app.command()
def dump(as_json: Json = False) -> None:
    """Every process of the table: its module, ports, environment and what it waits for."""
    with clear_errors():
        rows = _rows()
    if as_json:
        print_json(rows)
        return
    table = Table("process", "zone", "command", "ports", box=None, header_style="bold")
    for row in rows:
        ports = ", ".join(f"{name} {address}" for name, address in row["ports"].items())
        table.add_row(row["name"], row["zone"], row["command"], ports)
    console().print(table)


def _rows() -> list[dict[str, Any]]:
    from deploy.local import table
    from deploy.local.settings import LauncherSettings

    return [
        {
            "name": row.name,
            "zone": row.process.zone,
            "workload": row.process.workload,
            "command": _short(row.command),
            "after": list(row.after),
            "ports": {listen.name: str(listen) for listen in row.process.listens},
            "environment": {name: _hide_password(value) for name, value in row.environment.items()},
        }
        for row in table.build(LauncherSettings())
    ]


def _short(command: tuple[str, ...]) -> str:
    if command[1:2] == ("-m",):
        return f"python -m {command[2]}"
    program = next((part for part in command if part.startswith("/")), command[0] if command else "")
    return program.rsplit("/", 1)[-1] if command[:1] != ("java",) else "java kafka.Kafka"


def _hide_password(value: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(value).render_as_string(hide_password=True) if value.startswith("postgresql") else value
