"""`isthmus override`: faults and canary shares that the control planes push, and that end by themselves."""

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="Faults and canary shares, pushed for a while.", no_args_is_help=True)
Lasting = Annotated[float, typer.Option("--for", min=1, max=3600, help="Seconds until it ends by itself.")]
Percent = Annotated[int, typer.Option(min=1, max=100, help="So many percent of the calls.")]


@app.command()
def fault(
    method: Annotated[str, typer.Argument(help="A method, or the end of its name: orders/GetOrder.")],
    percent: Percent = 100,
    delay_ms: Annotated[int, typer.Option(min=0, max=30_000, help="Wait so long before the call goes on.")] = 0,
    abort: Annotated[str, typer.Option(help="Fail with this gRPC status: UNAVAILABLE.")] = "",
    lasting: Lasting = 60.0,
) -> None:
    """Let calls of a method wait or fail, at the gateway and the clients next to it."""
    from dataclasses import replace

    from deploy.local import overriding
    from mesh.control.overrides import Fault

    with clear_errors():
        zone, path = overriding.method(method)
        with overriding.clear():
            added = Fault(path, percent, time.time() + lasting, delay_ms, abort)
        _on_record(f"fault {path} {percent} percent {delay_ms} ms {abort} for {lasting:.0f} s")
        overriding.change(
            zone, lambda now: replace(now, faults=(*(one for one in now.faults if one.method != path), added))
        )
    print(f"{path}: for {lasting:.0f} s")


@app.command()
def split(
    workload: Annotated[str, typer.Argument(help="Whose calls are shared out.")],
    nodes: Annotated[list[str], typer.Argument(help="The nodes that get the share: orders-2.")],
    percent: Percent = 5,
    lasting: Lasting = 600.0,
) -> None:
    """Give some nodes of a workload a share of its calls, the others the rest."""
    from dataclasses import replace

    from deploy.local import overriding
    from mesh.control.overrides import Split

    with clear_errors():
        zone = overriding.workload(workload, nodes)
        with overriding.clear():
            added = Split(workload, tuple(nodes), percent, time.time() + lasting)
        _on_record(f"split {workload} {percent} percent to {','.join(nodes)} for {lasting:.0f} s")
        overriding.change(
            zone, lambda now: replace(now, splits=(*(one for one in now.splits if one.workload != workload), added))
        )
    print(f"{workload}: {percent}% to {', '.join(nodes)} for {lasting:.0f} s")


@app.command("list")
def list_overrides(as_json: Json = False) -> None:
    """Show what is laid over the contract now, and how long it lasts."""
    from dataclasses import asdict

    from deploy.local import overriding

    rows: list[dict[str, Any]] = []
    for zone in overriding.ZONES:
        now = overriding.read(zone)
        rows += [{"zone": zone, "kind": "fault", **asdict(one)} for one in now.faults]
        rows += [{"zone": zone, "kind": "split", **asdict(one)} for one in now.splits]
    if as_json:
        print_json(rows)
        return
    table = Table("kind", "on", "percent", "what", "ends in", box=None, header_style="bold")
    for row in rows:
        what = ", ".join(row["nodes"]) if row["kind"] == "split" else f"{row['delay_ms']} ms {row['abort']}"
        on = row.get("method") or row["workload"]
        table.add_row(row["kind"], on, str(row["percent"]), what, f"{row['expires'] - time.time():.0f} s")
    console().print(table)


@app.command()
def clear() -> None:
    """End all overrides now, also when the audit log is away and cannot have it on record."""
    from isthmus.audit.v1 import audit_pb2

    from deploy.cli import audit_log
    from deploy.local import overriding
    from mesh.control.overrides import Overrides

    for zone in overriding.ZONES:
        overriding.change(zone, lambda _: Overrides())
    audit_log.record_if_there(audit_pb2.ACTIVITY_CONFIGURATION_CHANGED, "overrides cleared")


def _on_record(about: str) -> None:
    """Before it is done: what is not on record does not happen. Raises LauncherError."""
    from isthmus.audit.v1 import audit_pb2

    from deploy.cli import audit_log

    asyncio.run(audit_log.record(audit_pb2.ACTIVITY_CONFIGURATION_CHANGED, about))
