"""`isthmus check`: a short list, in the order in which things depend on each other, each with its remedy."""

import asyncio

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}


def check(as_json: Json = False) -> None:
    """Check this machine and, when a mesh runs, the mesh. Exit status 1 if anything fails."""
    from deploy.local import checkup

    with clear_errors():
        findings = asyncio.run(checkup.all_findings())
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        table = Table("", "check", "result", "remedy", box=None, header_style="bold")
        for finding in findings:
            colour = COLOURS[finding.result]
            table.add_row(f"[{colour}]{finding.result}[/]", finding.name, finding.detail, finding.remedy)
        console().print(table)
    if any(finding.result == "fail" for finding in findings):
        raise typer.Exit(1)
