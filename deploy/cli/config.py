"""`isthmus config`: what the settings come to, and what the control planes have told whom."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from mesh.control.status import Told

app = typer.Typer(help="What the settings come to, and what the data planes were told.", no_args_is_help=True)


@app.command()
def dump(
    group: Annotated[str, typer.Argument(help="edge-gateway, core-gateway or grpc; none: the processes.")] = "",
    configuration: Annotated[str, typer.Argument(help="One of `isthmus config history`; none: the newest.")] = "",
    as_json: Json = False,
) -> None:
    """Every process of the table: its module, ports, environment and what it waits for. Of a group of data planes: the
    clusters, listeners and routes that its control plane has offered, with --json in xDS's own form."""
    if group:
        _dump_resources(group, configuration, as_json)
        return
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


def _dump_resources(group: str, configuration: str, as_json: bool) -> None:
    from deploy.local import control_planes
    from deploy.local.settings import LauncherSettings

    with clear_errors():
        rows = asyncio.run(control_planes.configuration(LauncherSettings().layout, group, configuration))
    if as_json:
        print_json(rows)
        return
    table = Table("type", "name", "bytes", box=None, header_style="bold")
    for row in rows:
        table.add_row(row["type"], row["name"], str(len(json.dumps(row["resource"]))))
    console().print(table)


@app.command()
def status(as_json: Json = False) -> None:
    """Show for each data plane what it was sent, has acknowledged, works with, and refused with which reason; and how
    its control plane's probes find it.

    Exit status 1 when one of them works with something else than its control plane's newest word, or refused it, and
    when a control plane does not answer.
    """
    with clear_errors():
        rows, silent = asyncio.run(_status())
    if as_json:
        print_json(rows)
    else:
        table = Table("data plane", "health", "group", "type", "sent", "acknowledged", "applied", "state", box=None)
        for row in rows:
            applied = ", ".join(row["applied"]) or "-"
            sent, acknowledged = row["sent"] or "-", row["acknowledged"] or "-"
            shown = (row["node"], row["health"] or "-", row["group"], row["type"], sent, acknowledged, applied)
            table.add_row(*shown, _COLOURS[row["state"]] + (f": {row['reason']}" if row["reason"] else ""))
        console().print(table)
    _say(silent)
    if silent or any(row["state"] in ("rejected", "behind") for row in rows):
        raise typer.Exit(1)


@app.command()
def history(as_json: Json = False) -> None:
    """List the configurations that were offered, newest last, and what became of each.

    Exit status 1 when a control plane does not answer.
    """
    from dataclasses import asdict

    from deploy.local import control_planes
    from deploy.local.settings import LauncherSettings

    with clear_errors():
        said = asyncio.run(control_planes.reports(LauncherSettings().layout))
    if as_json:
        print_json([asdict(change) for change in said.changes])
    else:
        table = Table("offered", "group", "configuration", "fate", "by", "reason", box=None, header_style="bold")
        for row in said.changes:
            when = datetime.fromtimestamp(row.offered, UTC).isoformat(timespec="seconds")
            table.add_row(when, row.group, row.configuration, row.fate, row.node, row.reason)
        console().print(table)
    _say(said.silent)
    if said.silent:
        raise typer.Exit(1)


@app.command()
def diff(
    group: Annotated[str, typer.Argument(help="edge-gateway, core-gateway or grpc.")],
    before: Annotated[str, typer.Argument(help="A configuration of `isthmus config history`.")],
    after: Annotated[str, typer.Argument(help="Another one.")],
    as_json: Json = False,
) -> None:
    """Show the resources in which two configurations of a group differ. Exit status 1 when there are any."""
    from difflib import unified_diff

    from deploy.local import control_planes
    from deploy.local.settings import LauncherSettings

    with clear_errors():
        rows = asyncio.run(control_planes.difference(LauncherSettings().layout, group, before, after))
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            old, new = (json.dumps(row[side], indent=1).splitlines() for side in ("before", "after"))
            print(f"{row['type']} {row['name']}: {row['change']}")
            print("\n".join(unified_diff(old, new, before, after, lineterm="", n=2)))
    if rows:
        raise typer.Exit(1)


@app.command()
def retry(
    group: Annotated[str, typer.Argument(help="edge-gateway, core-gateway or grpc.")],
    configuration: Annotated[str, typer.Argument(help="The refused one, of `isthmus config history`.")],
    as_json: Json = False,
) -> None:
    """Offer a refused configuration once more, where its reason has passed, and wait for what becomes of it.

    Exit status 1 when it is refused again: the group is back at what was good.
    """
    from dataclasses import asdict

    from isthmus.audit.v1 import audit_pb2

    from deploy.cli import audit_log
    from deploy.local import control_planes
    from deploy.local.settings import LauncherSettings

    # A repair does not wait for the log.
    changed = audit_pb2.ACTIVITY_CONFIGURATION_CHANGED
    record = audit_log.record_if_there(changed, f"retry {group} {configuration}")
    with clear_errors():
        home = LauncherSettings().layout
        row = asdict(asyncio.run(control_planes.retry(home, group, configuration, record, _RETRY_WITHIN_S)))
    if as_json:
        print_json(row)
    else:
        print(f"{group} {configuration}: {row['fate']}" + (f": {row['reason']}" if row["reason"] else ""))
    if row["fate"] != "good":
        raise typer.Exit(1)


_RETRY_WITHIN_S = 45.0
_COLOURS = {
    "applied": "[green]applied[/]",
    "acknowledged": "[green]acknowledged[/]",
    "behind": "[yellow]behind[/]",
    "gone": "[dim]gone[/]",
    "rejected": "[red]rejected[/]",
}


def _say(silent: Mapping[str, str]) -> None:
    for control, why in silent.items():
        typer.echo(f"{control} does not answer: {why}; see `isthmus check`", err=True)


async def _status() -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    from dataclasses import asdict

    from deploy.local import configuration, control_planes, topology
    from deploy.local.settings import LauncherSettings

    home = LauncherSettings().layout
    said = await control_planes.reports(home)
    applied = await configuration.applied(home, topology.read(home.topology))
    rows = []
    for report in said.found:
        for plane in report.planes:
            endpoint = report.endpoints.get(plane.node)
            health = control_planes.state(endpoint) if endpoint is not None else ""
            for kind, told in plane.types.items():
                if not told.sent:
                    continue
                versions = sorted(applied.get(plane.node, {}).get(kind, ()))
                row = {"node": plane.node, "health": health, "group": plane.group, "type": control_planes.short(kind)}
                state = _state(plane.connected, told, versions)
                reason = told.reason if state == "rejected" else ""
                rows.append({**row, **asdict(told), "applied": versions, "state": state, "reason": reason})
    return rows, said.silent


def _state(connected: bool, told: "Told", applied: list[str]) -> str:
    if told.rejected and told.rejected == told.sent:
        return "rejected"
    if not connected:
        return "gone"
    if told.acknowledged != told.sent:
        return "behind"
    # Resources that did not change keep the version under which they came.
    return "applied" if told.sent in applied else "acknowledged"


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
