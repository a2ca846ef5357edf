"""`isthmus bridge audit`: is every event that the edge accepted where it should be, and if not, where did it go?"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.operator import channels
from deploy.cli.output import Json, clear_errors, console, print_json

COUNTS = (
    "sent",
    "shed",
    "refused",
    "set_aside",
    "damaged",
    "landed",
    "duplicates",
    "dead_letters",
    "rows",
)
# In the order of an event's way: the first one that does not balance is where to look.
STAGES = ("spool", "kafka", "bridge", "warehouse")
PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where what went in is not what came out."""

    minute: str
    node: str
    topic: str
    partition: int
    stage: str
    what: str


@dataclass(frozen=True, slots=True)
class Balance:
    totals: dict[str, int]
    # Lines of minutes that their node has not closed: more of them may come.
    open_lines: int
    findings: tuple[Finding, ...]


def balance(lines: Sequence[dict[str, Any]]) -> Balance:
    """Hold the three witnesses against each other, line by line. Findings: by time, then in the order of the way."""
    totals = {name: sum(line[name] for line in lines) for name in COUNTS}
    findings = [finding for line in lines for finding in _check(line)]
    findings.sort(key=lambda one: (one.minute, STAGES.index(one.stage), one.node, one.topic, one.partition))
    return Balance(totals, sum(not line["closed"] for line in lines), tuple(findings))


def _check(line: dict[str, Any]) -> Iterable[Finding]:
    def finding(stage: str, what: str) -> Finding:
        return Finding(line["minute"], line["node"], line["topic"], line["partition"], stage, what)

    lost = line["set_aside"] + line["damaged"]
    if lost:
        yield finding("spool", f"{lost} accepted events were never sent: {line['set_aside']} set aside, rest damaged")
    came = line["landed"] + line["duplicates"] + line["dead_letters"]
    if line["closed"] and came < line["sent"]:
        yield finding("kafka", f"{line['sent']} were sent and {came} came: {line['sent'] - came} are missing")
    if line["closed"] and line["landed"] + line["dead_letters"] > line["sent"]:
        more = line["landed"] + line["dead_letters"] - line["sent"]
        yield finding("bridge", f"{more} more events came than the node says it sent ({line['sent']})")
    if line["rows"] != line["landed"]:
        yield finding("warehouse", f"{line['landed']} landed and {line['rows']} rows are there")


def audit(
    minutes: Annotated[int, typer.Option(min=1, max=43_200, help="Look back this far.")] = 60,
    wait: Annotated[
        float, typer.Option(min=0, max=600, help="Seconds that events on their way are waited for.")
    ] = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every line of the ledger.")] = False,
    as_json: Json = False,
) -> None:
    """Balance accepted against sent, landed and stored, per node, topic, partition and minute.

    Exit status 1 when it does not balance; the first place where it does not is named first.
    """
    with clear_errors():
        lines, found = asyncio.run(_balanced(minutes, wait))
    if as_json:
        print_json({**asdict(found), "balanced": not found.findings, "lines": lines})
    else:
        _show(lines if verbose else [], found)
    if found.findings:
        raise typer.Exit(1)


async def _balanced(minutes: int, wait_s: float) -> tuple[list[dict[str, Any]], Balance]:
    deadline = time.monotonic() + wait_s
    begin_us = (int(time.time()) // 60 - minutes) * 60_000_000
    while True:
        lines = await read(begin_us)
        found = balance(lines)
        # What is missing now may be on its way: the ledger's own lines can be quicker than the events.
        if not found.findings or time.monotonic() >= deadline:
            return lines, found
        await asyncio.sleep(PAUSE_S)


async def read(begin_us: int, end_us: int = 0) -> list[dict[str, Any]]:
    """The lines of [begin, end); 0: no end. Raises LauncherError when they are more than one answer holds."""
    from isthmus.bridge.v1 import bridge_pb2 as pb
    from isthmus.bridge.v1.bridge_pb2_grpc import BridgeStub

    from deploy.local.errors import LauncherError

    async with channels("bridge-inbound") as (channel, *_):
        answer = await BridgeStub(channel).ReadLedger(pb.ReadLedgerRequest(from_us=begin_us, to_us=end_us))
    if answer.truncated:
        raise LauncherError("The ledger of this window is longer than one answer", "Look back less far: --minutes")
    return [
        {
            "minute": datetime.fromtimestamp(line.minute_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%MZ"),
            "node": line.node,
            "topic": line.topic,
            "partition": line.partition,
            **{name: getattr(line, name) for name in COUNTS},
            "closed": line.closed,
        }
        for line in answer.lines
    ]


def _show(lines: list[dict[str, Any]], found: Balance) -> None:
    out = console()
    if lines:
        table = Table("minute", "node", "topic", "p", *COUNTS, "closed", box=None)
        for line in lines:
            place = (line["minute"], escape(line["node"]), line["topic"], str(line["partition"]))
            table.add_row(*place, *(str(line[name]) for name in COUNTS), "yes" if line["closed"] else "open")
        out.print(table)
    out.print(picture(found.totals))
    if found.open_lines:
        out.print(f"{found.open_lines} lines belong to minutes that their nodes have not closed yet")
    if not found.findings:
        out.print("[green]balanced[/]")
        return
    first, *rest = found.findings
    out.print(f"[red]does not balance first at {_place(first)}[/]")
    for each in rest[:20]:
        out.print(f"then at {_place(each)}")
    if len(rest) > 20:
        out.print(f"and {len(rest) - 20} more places")


def _place(finding: Finding) -> str:
    where = f"{finding.minute} {finding.node} {finding.topic}/{finding.partition}"
    return escape(f"{where}: {finding.stage}: {finding.what}")


def picture(totals: dict[str, int]) -> str:
    """The flow from the edge to the warehouse, with what left it on the way."""
    accepted = totals["sent"] + totals["set_aside"] + totals["damaged"]
    came = totals["landed"] + totals["duplicates"] + totals["dead_letters"]
    set_aside, damaged = totals["set_aside"], totals["damaged"]
    return (
        f"edge       accepted {accepted:>12,}   shed {totals['shed']:,}, refused {totals['refused']:,}\n"
        f"  spool        sent {totals['sent']:>12,}   set aside {set_aside:,}, damaged {damaged:,}\n"
        f"    kafka      came {came:>12,}   repeats {totals['duplicates']:,}, dead letters {totals['dead_letters']:,}\n"
        f"      bridge landed {totals['landed']:>12,}\n"
        f"        warehouse rows {totals['rows']:>9,}"
    )
