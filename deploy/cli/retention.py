"""`isthmus retention`: for how long what is kept, and what was removed for that: by the contract and the audit log."""

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

RECORDS_MAX = 100_000


def retention(
    days: Annotated[int, typer.Option(min=1, max=3650, help="Removals of the last so many days.")] = 30,
    accept_clock: Annotated[
        bool, typer.Option("--accept-clock", help="This machine's clock is right: retention goes on from now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show for how long each class of data, and of audit records, is kept, and what was removed since."""
    with clear_errors():
        if accept_clock:
            asyncio.run(_accept())
        found = asyncio.run(_found(days))
    if as_json:
        print_json(found)
    else:
        _show(found, days)


async def _accept() -> None:
    from isthmus.audit.v1 import audit_pb2 as pb

    from deploy.cli import audit_log

    async with audit_log.connected() as log:
        await log.AcceptClock(pb.AcceptClockRequest(now_us=time.time_ns() // 1000))


async def _found(days: int) -> dict[str, Any]:
    from isthmus.audit.v1 import audit_pb2 as pb

    from deploy.cli import audit_log
    from deploy.local.errors import LauncherError
    from mesh.contract import load
    from security.audit.removal import AUDITED_AS, DAY_US, removed

    contract = load()
    since_us = time.time_ns() // 1000 - days * DAY_US
    async with audit_log.connected() as log:
        request = pb.ListRecordsRequest(method=AUDITED_AS, from_time_us=since_us)
        records = await audit_log.records(log, request, RECORDS_MAX)
    if len(records) == RECORDS_MAX:
        raise LauncherError(f"There are more than {RECORDS_MAX} removals", "Ask for fewer days")
    places: dict[str, dict[str, Any]] = {}
    refused = [record for record in records if record.decision == pb.DECISION_DENIED]
    for record in records:
        if record.decision == pb.DECISION_DENIED:
            continue
        name, count = removed(record.reason)
        place = places.setdefault(name, {"place": name, "removed": 0, "last": ""})
        place["removed"] += count
        place["last"] = audit_log.plain(record)["time"]
    events = sorted(contract.events.values(), key=lambda event: event.topic)
    return {
        "classes": [{"class": each.name, "days": kept} for each, kept in sorted(contract.kept_days.items())],
        "records": [{"class": each.name, "days": kept} for each, kept in sorted(contract.recorded_days.items())],
        "events": [{"topic": event.topic, "days": event.retention_days} for event in events],
        "removed": [place for _, place in sorted(places.items())],
        # When a clock was further ahead than is believed, for the last time.
        "clock_refused": audit_log.plain(refused[-1])["time"] if refused else "",
    }


def _show(found: dict[str, Any], days: int) -> None:
    kept = Table("what", "kept", box=None)
    rows = [(row["class"], row["days"]) for row in found["classes"]]
    rows += [(f"records of calls that answer {row['class']}", row["days"]) for row in found["records"]]
    for name, limit in [*rows, *((row["topic"], row["days"]) for row in found["events"])]:
        kept.add_row(escape(name), f"{limit} days" if limit else "for ever")
    gone = Table("from", "removed", "last", box=None)
    for place in found["removed"]:
        gone.add_row(escape(place["place"]), str(place["removed"]), place["last"][:19])
    out = console()
    out.print(kept)
    out.print(gone if found["removed"] else f"Nothing was removed in the last {days} days.")
    if found["clock_refused"]:
        at, runbook = found["clock_refused"][:19], "docs/runbooks/keys-and-erasure.md"
        out.print(f"[red]A clock that said {at} was not believed, and nothing removed by it[/] ({runbook})")
