"""`isthmus policy`: what the contract allows, and what in it must not be built."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="What the contract allows.", no_args_is_help=True)


@app.command()
def lint(as_json: Json = False) -> None:
    """List every policy that breaks a rule, with its place and remedy. Exit status 1 if there is one."""
    from mesh.contract.lint import lint as find

    findings = find()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(finding)
        print(f"{len(findings)} findings")
    if findings:
        raise typer.Exit(1)


@app.command()
def table(as_json: Json = False) -> None:
    """Print who may call what, with which token, for how long: the published policy table."""
    from mesh import contract
    from mesh.contract import table as policy_table

    loaded = contract.load()
    if as_json:
        print_json(policy_table.rows(loaded))
    else:
        print(policy_table.markdown(loaded), end="")


@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="A method, or the end of its name: Orders.PlaceOrder.")],
    as_json: Json = False,
) -> None:
    """Say all that the contract says of one method."""
    from deploy.local.errors import UnknownName
    from mesh import contract
    from mesh.contract import table as policy_table

    wanted = method.strip("/").replace("/", ".")
    with clear_errors():
        found = [row for row in policy_table.rows(contract.load()) if _matches(row, wanted)]
        if len(found) != 1:
            raise UnknownName(f"{len(found)} methods are named {method}", "See them all: isthmus policy table")
    if as_json:
        print_json(found[0])
        return
    shown = Table(show_header=False, box=None)
    for name, value in found[0].items():
        shown.add_row(f"[bold]{name.replace('_', ' ')}[/]", _plain(value))
    console().print(shown)


def _matches(row: dict[str, Any], wanted: str) -> bool:
    name = str(row["method"])
    return name == wanted or name.endswith(f".{wanted}")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in ("", None) else "none"
