"""`isthmus override`: faults and canary shares that the control planes push, and that end by themselves."""

import asyncio
from typing import Annotated, Any

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="Faults and canary shares, pushed for a while.", no_args_is_help=True)
Lasting = Annotated[int, typer.Option("--for", min=1, max=3600, help="Seconds until it ends by itself.")]


@app.command()
def fault(
    method: Annotated[str, typer.Argument(help="A method, or the end of its name: orders/GetOrder.")],
    percent: Annotated[int, typer.Option(min=1, max=100, help="So many percent of the calls.")] = 100,
    delay_ms: Annotated[int, typer.Option(min=0, max=30_000, help="Wait so long before the call goes on.")] = 0,
    abort: Annotated[str, typer.Option(help="Fail with this gRPC status: UNAVAILABLE.")] = "",
    lasting: Lasting = 60,
) -> None:
    """Let calls of a method wait or fail, at the gateway and the clients next to it."""
    from isthmus.control.v1 import control_pb2 as pb

    from deploy.local import overriding
    from deploy.local.settings import LauncherSettings

    async def lay() -> str:
        zone, path = overriding.method(method)
        record = await _on_record(f"fault {path} {percent} percent {delay_ms} ms {abort} for {lasting} s")
        mandate = pb.Mandate(life_s=lasting, record=record)
        request = pb.InjectFaultRequest(method=path, percent=percent, delay_ms=delay_ms, abort=abort, mandate=mandate)
        await overriding.inject(LauncherSettings().layout, zone, request)
        return path

    with clear_errors():
        path = asyncio.run(lay())
    print(f"{path}: for {lasting} s")


@app.command()
def split(
    workload: Annotated[str, typer.Argument(help="Whose calls are shared out.")],
    nodes: Annotated[list[str], typer.Argument(help="The nodes that get the share: orders-2.")],
    percent: Annotated[int, typer.Option(min=1, max=99, help="So many percent of the calls.")] = 5,
    lasting: Lasting = 600,
) -> None:
    """Give some nodes of a workload a share of its calls, the others the rest."""
    from isthmus.control.v1 import control_pb2 as pb

    from deploy.local import overriding
    from deploy.local.settings import LauncherSettings

    async def lay() -> None:
        home = LauncherSettings().layout
        zone = overriding.zone_of(home, workload, nodes)
        record = await _on_record(f"split {workload} {percent} percent to {','.join(nodes)} for {lasting} s")
        mandate = pb.Mandate(life_s=lasting, record=record)
        await overriding.split(
            home, zone, pb.SplitTrafficRequest(workload=workload, nodes=nodes, percent=percent, mandate=mandate)
        )

    with clear_errors():
        asyncio.run(lay())
    print(f"{workload}: {percent}% to {', '.join(nodes)} for {lasting} s")


@app.command("list")
def list_overrides(as_json: Json = False) -> None:
    """Show what is laid over the contract now, and how long it lasts."""
    from deploy.local import overriding
    from deploy.local.settings import LauncherSettings

    with clear_errors():
        rows, silent = asyncio.run(overriding.listed(LauncherSettings().layout))
    if as_json:
        print_json(rows)
    else:
        _show(rows)
    for control, why in silent.items():
        typer.echo(f"{control} does not answer: {why}", err=True)
    if silent:
        raise typer.Exit(1)


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("kind", "on", "percent", "what", "ends in", "on record", box=None, header_style="bold")
    for row in rows:
        what = ", ".join(row["nodes"]) if row["kind"] == "split" else f"{row['delay_ms']} ms {row['abort']}"
        table.add_row(row["kind"], row["on"], str(row["percent"]), what, f"{row['ends_in_s']:.0f} s", row["record"])
    console().print(table)


@app.command()
def clear() -> None:
    """End all overrides now, also when the audit log is away and cannot have it on record."""
    from isthmus.audit.v1 import audit_pb2

    from deploy.cli import audit_log
    from deploy.local import overriding
    from deploy.local.settings import LauncherSettings

    with clear_errors():
        asyncio.run(overriding.clear_all(LauncherSettings().layout))
    audit_log.record_if_there(audit_pb2.ACTIVITY_CONFIGURATION_CHANGED, "overrides cleared")


async def _on_record(about: str) -> str:
    """Before it is done: what is not on record does not happen. The record's trace. Raises LauncherError."""
    from isthmus.audit.v1 import audit_pb2

    from deploy.cli import audit_log

    return await audit_log.record(audit_pb2.ACTIVITY_CONFIGURATION_CHANGED, about)
