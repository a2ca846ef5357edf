"""`isthmus bridge`: what landed in the warehouse and how fresh it is; and the groups of commands that operate it."""

import asyncio
from typing import Any

import typer
from rich.table import Table

from deploy.cli import backfill, dead_letters, flow, ledger, moves
from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

app = typer.Typer(help="What crosses between the zones.", no_args_is_help=True)
app.add_typer(dead_letters.app, name="dlq")
app.command("audit")(ledger.audit)
app.command("flow")(flow.show)
app.command("pause")(flow.pause)
app.command("resume")(flow.resume)
app.command("rate-limit")(flow.rate_limit)
app.command("drain")(flow.drain)
app.command("backfill")(backfill.backfill)
app.command("shadow")(backfill.shadow)
app.command("partitions")(moves.partitions)
app.command("move-kafka")(moves.move_kafka)
app.command("move-database")(moves.move_database)


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

    async with channels("warehouse") as (channel, *_):
        stub = WarehouseStub(channel)
        landing = await stub.ReportLanding(warehouse_pb2.ReportLandingRequest())
        freshness = await stub.ReportFreshness(warehouse_pb2.ReportFreshnessRequest())
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
