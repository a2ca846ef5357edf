"""`isthmus reconcile`: is what the payment provider says it did what the books say?"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

# Not 1, which says that it could not be found out.
DIFFERENT = 3


def reconcile(
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="UTC; yesterday unless it is given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold the payment provider's statement of one day against the books. Adjusts nothing.

    Exit status 3 when they differ; every difference is named.
    """
    chosen = day or datetime.now(UTC) - timedelta(days=1)
    with clear_errors():
        found = asyncio.run(_reconcile(chosen.date().isoformat()))
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found["differences"]:
        raise typer.Exit(DIFFERENT)


async def _reconcile(day: str) -> dict[str, Any]:
    from isthmus.payments.v1 import payments_pb2
    from isthmus.payments.v1.payments_pb2_grpc import LedgerStub

    async with channels("payments") as (channel, *_):
        answer = await LedgerStub(channel).Reconcile(payments_pb2.ReconcileRequest(day=day))
    return {
        "provider": answer.provider,
        "day": answer.day,
        "lines": answer.lines,
        "differences": [
            {"operation_id": one.operation_id, "name": one.name, "here": one.here, "there": one.there}
            for one in answer.differences
        ],
    }


def _show(found: dict[str, Any]) -> None:
    out = console()
    differences = found["differences"]
    if differences:
        table = Table("operation", "difference", "here", "there", box=None)
        for one in differences:
            table.add_row(*(escape(one[name]) for name in ("operation_id", "name", "here", "there")))
        out.print(table)
    verdict = f"[red]{len(differences)} differences[/]" if differences else "[green]no difference[/]"
    out.print(f"{found['provider']}, {found['day']}: {found['lines']} lines, {verdict}")
