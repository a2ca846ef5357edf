"""`isthmus bridge`: what landed in the warehouse and how fresh it is, read from the running mesh as its operator."""

import asyncio
from typing import Any

import typer
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="What crosses between the zones.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `status` a command of its own while it is the only one."""


@app.command()
def status(as_json: Json = False) -> None:
    """Print per partition what landed, what was a repeat, what could not land; and how long clicks took."""
    with clear_errors():
        found = asyncio.run(_status())
    if as_json:
        print_json(found)
    else:
        _show(found)


async def _status() -> dict[str, Any]:
    from isthmus.warehouse.v1 import warehouse_pb2
    from isthmus.warehouse.v1.warehouse_pb2_grpc import WarehouseStub

    from deploy.local import topology
    from deploy.local.errors import LauncherError, NotRunning
    from deploy.local.settings import LauncherSettings
    from mesh.channel import Channels
    from mesh.contract import load
    from mesh.errors import MeshError
    from mesh.spiffe import SpiffeId
    from mesh.tls import Identity, IdentityError

    home = LauncherSettings().layout
    table = topology.read(home.topology)
    listen = table.process("warehouse").listen("grpc")
    if listen is None:
        raise NotRunning("The warehouse does not listen", "Start the mesh with `make run`")
    try:
        channels = Channels(Identity(home.identity("operator")), load())
        try:
            peer = SpiffeId("private", "warehouse", table.trust_domain)
            stub = WarehouseStub(channels.direct(str(listen), peer))
            landing = await stub.ReportLanding(warehouse_pb2.ReportLandingRequest())
            freshness = await stub.ReportFreshness(warehouse_pb2.ReportFreshnessRequest())
        finally:
            await channels.close(0)
    except (MeshError, IdentityError) as error:
        raise LauncherError(f"The warehouse cannot be read: {error}", "See `isthmus status`") from error
    return {
        "partitions": [
            {
                "topic": each.topic,
                "partition": each.partition,
                "next_offset": each.next_offset,
                "landed": each.landed,
                "duplicates": each.duplicates,
                "dead_letters": each.dead_letters,
            }
            for each in landing.partitions
        ],
        "doubled_rows": landing.doubled_rows,
        "clicks": freshness.clicks,
        "click_to_row_ms_p50": freshness.p50_ms,
        "click_to_row_ms_p99": freshness.p99_ms,
        "click_to_row_ms_max": freshness.max_ms,
    }


def _show(found: dict[str, Any]) -> None:
    table = Table("topic", "partition", "next offset", "landed", "repeats", "dead letters", box=None)
    for each in found["partitions"]:
        dead = each["dead_letters"]
        counts = (each[name] for name in ("partition", "next_offset", "landed", "duplicates"))
        table.add_row(each["topic"], *map(str, counts), f"[red]{dead}[/]" if dead else "0")
    out = console()
    out.print(table)
    out.print(f"rows that stand more than once: {found['doubled_rows']}")
    if found["clicks"]:
        p50, p99 = found["click_to_row_ms_p50"], found["click_to_row_ms_p99"]
        out.print(f"click to row: p50 {p50:.0f} ms, p99 {p99:.0f} ms, of {found['clicks']} clicks")
