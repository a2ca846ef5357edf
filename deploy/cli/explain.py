"""`isthmus explain`: the path of a call, hop by hop."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

_VERDICTS = {True: "[green]allows[/]", False: "[red]refuses[/]", None: "[yellow]depends[/]"}


def explain(
    origin: Annotated[str, typer.Option("--from", help="The caller: outside, a workload, or a SPIFFE id.")],
    target: Annotated[str, typer.Option("--to", help="The method: orders/PlaceOrder, or any end of its full name.")],
    as_json: Json = False,
) -> None:
    """Follow a call from its caller to its handler: what each hop looks at, and what comes of it.

    Exit status 1 when a hop refuses it whatever it holds.
    """
    from deploy.local import control_planes
    from deploy.local.errors import NotRunning, UnknownName
    from deploy.local.settings import LauncherSettings
    from mesh import contract
    from mesh.contract.explain import find
    from mesh.control import path

    loaded = contract.load()
    with clear_errors():
        found = find(loaded, target)
        if len(found) != 1:
            raise UnknownName(f"{len(found)} methods are named {target}", "See them all: isthmus policy table")
        try:
            caller = path.origin(loaded, origin)
        except ValueError as error:
            raise UnknownName(str(error), "Name one of them, or outside") from error
    try:
        endpoints = asyncio.run(control_planes.reports(LauncherSettings().layout)).endpoints
    except NotRunning:
        endpoints = []

    def health(workload: str) -> str:
        behind = (each for each in endpoints if each.workload == workload)
        return ", ".join(f"{each.node} {control_planes.state(each)}" for each in behind)

    hops = path.hops(loaded, caller, found[0], health)
    if as_json:
        print_json([asdict(hop) for hop in hops])
    else:
        table = Table("at", "looks at", "verdict", "because", box=None, header_style="bold")
        for hop in hops:
            table.add_row(hop.at, hop.rule, _VERDICTS[hop.allowed], hop.why)
        console().print(table)
    if any(hop.allowed is False for hop in hops):
        raise typer.Exit(1)
