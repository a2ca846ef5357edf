"""`isthmus audit`: who did what on whose data, read from the running mesh as its operator."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from isthmus.audit.v1 import audit_pb2
    from isthmus.audit.v1.audit_pb2_grpc import AuditLogAsyncStub

PAGE_SIZE = 1000
FOLLOW_S = 1.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

app = typer.Typer(help="Who did what on whose data.", no_args_is_help=True)

Lines = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="No more records than this.")]
Method = Annotated[str, typer.Option(help="Only this method: /package.Service/Method.")]
Subject = Annotated[str, typer.Option(help="Only calls with this token subject.")]
About = Annotated[str, typer.Option(help="Only calls about this member's data.")]
Denied = Annotated[bool, typer.Option("--denied", help="Only calls that were refused.")]


@app.command("list")
def list_records(
    after: Annotated[int, typer.Option(min=0, help="Begin after this sequence number.")] = 0,
    limit: Lines = 100,
    method: Method = "",
    subject: Subject = "",
    about: About = "",
    denied: Denied = False,
    as_json: Json = False,
) -> None:
    """Print records in the order in which they were written. Reading the log is on record too."""
    with clear_errors():
        records = asyncio.run(_list(_request(after, method, subject, about, denied), limit))
    _show(records, as_json)


@app.command()
def tail(
    limit: Lines = 20,
    method: Method = "",
    subject: Subject = "",
    about: About = "",
    denied: Denied = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records are written.")] = False,
    as_json: Json = False,
) -> None:
    """Print the newest records; with --follow, go on until stopped."""
    with clear_errors():
        asyncio.run(_tail(_request(0, method, subject, about, denied), limit, follow, as_json))


def _request(after: int, method: str, subject: str, about: str, denied: bool) -> "audit_pb2.ListRecordsRequest":
    from isthmus.audit.v1 import audit_pb2

    return audit_pb2.ListRecordsRequest(
        after_sequence=after,
        page_size=PAGE_SIZE,
        method=method,
        token_subject=subject,
        data_subject=about,
        decision=audit_pb2.DECISION_DENIED if denied else audit_pb2.DECISION_UNSPECIFIED,
    )


async def _list(request: "audit_pb2.ListRecordsRequest", limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with _log() as log:
        async for record in _pages(log, request):
            found.append(record)
            if len(found) == limit:
                break
    return found


async def _tail(request: "audit_pb2.ListRecordsRequest", limit: int, follow: bool, as_json: bool) -> None:
    async with _log() as log:
        newest: deque[dict[str, Any]] = deque(maxlen=limit)
        async for record in _pages(log, request):
            newest.append(record)
        _show(list(newest), as_json)
        while follow:
            await asyncio.sleep(FOLLOW_S)
            arrived = [record async for record in _pages(log, request)]
            if arrived:
                _show(arrived, as_json, header=False)


async def _pages(log: "AuditLogAsyncStub", request: "audit_pb2.ListRecordsRequest") -> AsyncIterator[dict[str, Any]]:
    """Every record after the request's position, which moves on with them."""
    while True:
        page = (await log.ListRecords(request)).records
        for record in page:
            request.after_sequence = record.sequence
            yield _plain(record)
        if len(page) < PAGE_SIZE:
            return


@asynccontextmanager
async def _log() -> AsyncIterator["AuditLogAsyncStub"]:
    """The log of the running mesh. Failures become one line with a remedy."""
    from isthmus.audit.v1.audit_pb2_grpc import AuditLogStub

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
    listen = table.process("audit").listen("grpc")
    if listen is None:
        raise NotRunning("The audit log does not listen", "Start the mesh with `make run`")
    try:
        channels = Channels(Identity(home.identity("operator")), load())
        try:
            yield AuditLogStub(channels.direct(str(listen), SpiffeId("private", "audit", table.trust_domain)))
        finally:
            await channels.close(0)
    except (MeshError, IdentityError) as error:
        raise LauncherError(f"The audit log cannot be read: {error}", "See `isthmus status`") from error


def _plain(record: "audit_pb2.AuditRecord") -> dict[str, Any]:
    from isthmus.audit.v1 import audit_pb2

    return {
        "sequence": record.sequence,
        "time": (EPOCH + timedelta(microseconds=record.time_us)).isoformat(),
        "peer": record.peer,
        "token_subject": record.token_subject,
        "token_client": record.token_client,
        "method": record.method,
        "data_subject": record.data_subject,
        "decision": audit_pb2.Decision.Name(record.decision).removeprefix("DECISION_").lower(),
        "result": record.result,
        "reason": record.reason,
        "trace_id": record.trace_id,
        "workload": record.workload,
        "node": record.node,
        "leaf_hash": record.leaf_hash.hex(),
    }


def _show(records: list[dict[str, Any]], as_json: bool, header: bool = True) -> None:
    if as_json:
        print_json(records)
        return
    table = Table("#", "time", "who", "what", "about", "decision", "result", box=None, show_header=header)
    for record in records:
        peer = record["peer"].rsplit("/", 1)[-1] or "?"
        who = f"{record['token_subject']} via {peer}" if record["token_subject"] else peer
        colour = "red" if record["decision"] == "denied" else "green"
        result = f"{record['result']} {record['reason']}".strip()
        what = record["method"].rsplit(".", 1)[-1]
        table.add_row(
            str(record["sequence"]),
            record["time"][:23],
            escape(who),
            escape(what),
            escape(record["data_subject"]),
            f"[{colour}]{record['decision']}[/]",
            escape(result),
        )
    console().print(table)
