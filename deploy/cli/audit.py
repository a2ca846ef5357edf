"""`isthmus audit`: who did what on whose data, and whether the log of it is what was signed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from deploy.cli.audit_show import show, show_access, show_report
from deploy.cli.output import Json, clear_errors, console, print_json

if TYPE_CHECKING:
    from isthmus.audit.v1 import audit_pb2

    from security.audit.findings import Report
    from security.audit.report import AccessReport

FOLLOW_S = 1.0
FOLLOWED_MAX = 10_000
TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"]

app = typer.Typer(help="Who did what on whose data, and the proof of it.", no_args_is_help=True)

Lines = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="No more records than this.")]
Method = Annotated[str, typer.Option(help="Only this method: /package.Service/Method.")]
Subject = Annotated[str, typer.Option(help="Only calls with this token subject.")]
About = Annotated[str, typer.Option(help="Only calls about this member's data.")]
Denied = Annotated[bool, typer.Option("--denied", help="Only calls that were refused.")]
Since = Annotated[datetime | None, typer.Option("--from", formats=TIME_FORMATS, help="From this time on (UTC).")]
Until = Annotated[datetime | None, typer.Option("--to", formats=TIME_FORMATS, help="Before this time (UTC).")]
Key = Annotated[Path | None, typer.Option(help="The log's public key. By default that of this home.")]


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
    filters = {"method": method, "token_subject": subject, "data_subject": about, "after_sequence": after}
    with clear_errors():
        show(asyncio.run(_read(_request(denied, **filters), limit)), as_json)


@app.command()
def search(
    peer: Annotated[str, typer.Option(help="Only calls by this workload, or SPIFFE id.")] = "",
    subject: Subject = "",
    about: About = "",
    method: Method = "",
    denied: Denied = False,
    since: Since = None,
    until: Until = None,
    trace: Annotated[str, typer.Option(help="Only calls of this trace.")] = "",
    limit: Lines = 100,
    as_json: Json = False,
) -> None:
    """Print the newest records that fit everything asked for, the newest first."""
    from deploy.local.settings import LauncherSettings

    if peer and "://" not in peer:
        peer = f"spiffe://{LauncherSettings().trust_domain}/private/{peer}"
    filters = {"peer": peer, "token_subject": subject, "data_subject": about, "method": method, "trace_id": trace}
    times = {"from_time_us": _time_us(since), "to_time_us": _time_us(until), "newest_first": True}
    with clear_errors():
        show(asyncio.run(_read(_request(denied, **filters, **times), limit)), as_json)


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
    filters = {"method": method, "token_subject": subject, "data_subject": about}
    with clear_errors():
        asyncio.run(_tail(_request(denied, newest_first=True, **filters), limit, follow, as_json))


@app.command()
def verify(
    export: Annotated[Path | None, typer.Option(help="Verify this export, offline, and not the database.")] = None,
    key: Key = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="More checkpoints, kept elsewhere: the log must not be behind them.")
    ] = None,
    witness: Annotated[
        Path | None, typer.Option(help="The witness's public key: it must have cosigned. By default that of this home.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find out whether the log is what was signed, and name what is not. Exit status 1 when anything is not."""
    with clear_errors():
        report = _verified(export, key, checkpoints, witness)
        if export is None:
            _put_on_record(report)
    show_report(report, as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command("export")
def export_events(
    output: Annotated[Path | None, typer.Option(help="The file to write.")] = None,
    form: Annotated[str, typer.Option("--format", help="ocsf: JSON lines, to verify. syslog: RFC 5424.")] = "ocsf",
    collector: Annotated[str, typer.Option(help="HOST:PORT to send syslog to, over TLS (RFC 5425), and no file.")] = "",
    ca: Annotated[Path | None, typer.Option(help="Roots to trust the collector by. By default the system's.")] = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Write the log to a file that `verify --export` checks with nothing but the public key, or send it as syslog."""
    from deploy.local.errors import UnknownName

    with clear_errors():
        if form not in ("ocsf", "syslog") or (form == "ocsf" and collector):
            raise UnknownName(f"There is no format {form} for this", "Say --format ocsf, or syslog with --collector")
        if (output is None) is not bool(collector):
            raise UnknownName("It goes to a file or to a collector", "Say --output FILE, or --collector HOST:PORT")
        times = _time_us(since), _time_us(until)
        if output is not None:
            lines = asyncio.run(_export(output, form, *times))
        else:
            lines = asyncio.run(_forward(collector, ca, *times))
    where = str(output or collector)
    if as_json:
        print_json({"output": where, "lines": lines})
    else:
        console().print(f"{lines} lines to {escape(where)}")


@app.command()
def report(since: Since = None, until: Until = None, as_json: Json = False) -> None:
    """Show who saw whose personal data, who was refused in bursts, and which rights were used, and which never."""
    with clear_errors():
        found = asyncio.run(_report(_time_us(since), _time_us(until)))
    if as_json:
        print_json(
            asdict(found) | {"bursts": [asdict(each) | {"reasons": sorted(each.reasons)} for each in found.bursts]}
        )
        return
    show_access(found)


def _request(denied: bool, **filters: Any) -> "audit_pb2.ListRecordsRequest":
    from isthmus.audit.v1 import audit_pb2

    decision = audit_pb2.DECISION_DENIED if denied else audit_pb2.DECISION_UNSPECIFIED
    return audit_pb2.ListRecordsRequest(decision=decision, **filters)


def _time_us(time: datetime | None) -> int:
    if time is None:
        return 0
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)


async def _read(request: "audit_pb2.ListRecordsRequest", limit: int) -> list[dict[str, Any]]:
    from deploy.cli import audit_log

    async with audit_log.connected() as log:
        return [audit_log.plain(record) for record in await audit_log.records(log, request, limit)]


async def _tail(request: "audit_pb2.ListRecordsRequest", limit: int, follow: bool, as_json: bool) -> None:
    from deploy.cli import audit_log

    async with audit_log.connected() as log:
        newest = (await audit_log.records(log, request, limit))[::-1]
        show([audit_log.plain(record) for record in newest], as_json)
        request.newest_first = False
        request.before_sequence = 0
        request.after_sequence = newest[-1].sequence if newest else 0
        while follow:
            await asyncio.sleep(FOLLOW_S)
            arrived = await audit_log.records(log, request, FOLLOWED_MAX)
            if arrived:
                show([audit_log.plain(record) for record in arrived], as_json, header=False)


async def _report(from_time_us: int, to_time_us: int) -> "AccessReport":
    from deploy.cli import audit_log
    from mesh.contract import load
    from security.audit.report import report

    async with audit_log.connected() as log:
        records = [record async for record, _, _ in audit_log.leaves(log, from_time_us, to_time_us)]
    return report(records, load())


async def _forward(collector: str, ca: Path | None, from_time_us: int, to_time_us: int) -> int:
    from deploy.cli import audit_log
    from deploy.local.errors import LauncherError
    from security.audit import syslog

    host, _, port = collector.rpartition(":")
    if not host or not port.isdecimal():
        raise LauncherError(f"{collector} is no address", "Say HOST:PORT")
    async with audit_log.connected() as log:
        lines = (syslog.message(*leaf) async for leaf in audit_log.leaves(log, from_time_us, to_time_us))
        try:
            return await syslog.send(lines, host, int(port), ca)
        except (OSError, TimeoutError) as error:
            raise LauncherError(f"{collector} does not take it: {error}", "See --ca and the collector") from error


async def _lines(form: str, from_time_us: int, to_time_us: int) -> AsyncIterator[str]:
    from deploy.cli import audit_log
    from security.audit import syslog

    async with audit_log.connected() as log:
        if form == "syslog":
            async for leaf in audit_log.leaves(log, from_time_us, to_time_us):
                yield syslog.message(*leaf)
        else:
            async for event in audit_log.events(log, from_time_us, to_time_us):
                yield json.dumps(event, ensure_ascii=False, separators=(",", ":"))


async def _export(output: Path, form: str, from_time_us: int, to_time_us: int) -> int:
    from deploy.local.errors import LauncherError

    lines = 0
    draft = output.with_name(f".{output.name}.draft")
    try:
        with draft.open("w") as file:
            async for line in _lines(form, from_time_us, to_time_us):
                file.write(line + "\n")
                lines += 1
        # Whole or not at all: a file that ends early would look like a log that was cut.
        draft.replace(output)
    except OSError as error:
        raise LauncherError(f"{output} cannot be written: {error.strerror}", "Choose another file") from error
    finally:
        draft.unlink(missing_ok=True)
    return lines


def _verified(export: Path | None, key: Path | None, checkpoints: Path | None, witness: Path | None) -> "Report":
    import psycopg

    from deploy.local import postgres, replication
    from deploy.local.errors import LauncherError
    from deploy.local.settings import LauncherSettings
    from mesh.clock import SystemClock
    from mesh.errors import MeshError
    from security.audit.checkpoint import CHECKPOINT_FILE, VERIFIER_KEY, CheckpointFile
    from security.audit.cosignature import WITNESS_FILE, WITNESS_VERIFIER_KEY, WitnessVerifier
    from security.audit.export import ExportMalformed, verify_export
    from security.audit.findings import KeptNote
    from security.audit.inspection import inspect
    from security.audit.note import Verifier

    settings = LauncherSettings()
    home = settings.layout
    try:
        verifier = Verifier.parse((key or home.root / VERIFIER_KEY).read_text(errors="replace"))
        own = home.root / WITNESS_VERIFIER_KEY
        asked = witness or (own if export is None and own.exists() else None)
        witnessed = WitnessVerifier.parse(asked.read_text(errors="replace")) if asked else None
        elsewhere: list[KeptNote] = []
        if export is None and (home.root / WITNESS_FILE).exists():
            elsewhere = [KeptNote((home.root / WITNESS_FILE).read_text(errors="replace"), "the witness")]
        if checkpoints is not None:
            notes = CheckpointFile(checkpoints).notes()
            elsewhere.extend(KeptNote(note, str(checkpoints)) for note in notes)
            if not notes:
                raise LauncherError(f"{checkpoints} holds no checkpoint", "Name a file of checkpoints")
        if export is not None:
            with _text(export) as lines:
                return verify_export(lines, elsewhere, verifier, witnessed)
        url = settings.database_url or postgres.url(home, nodes=replication.nodes(home))
        file, now_us = CheckpointFile(home.root / CHECKPOINT_FILE), SystemClock().now_us()
        return inspect(url, file, verifier, now_us, elsewhere, witnessed)
    except (OSError, MeshError, ExportMalformed) as error:
        raise LauncherError(
            f"The audit log cannot be verified: {error}", "See `isthmus audit verify --help`"
        ) from error
    except psycopg.Error as error:
        reason = str(error).partition("\n")[0]
        raise LauncherError(f"The audit database cannot be read: {reason}", "See `isthmus status`") from error


def _put_on_record(report: "Report") -> None:
    """That the log was read from end to end is on record like any other reading of it.

    A log whose service is away is verified all the same: that is when it is needed most. Then it is said here.
    """
    from isthmus.audit.v1 import audit_pb2 as pb

    from deploy.cli import audit_log

    activity = pb.ACTIVITY_LOG_VERIFIED if report.ok else pb.ACTIVITY_LOG_REFUTED
    kinds = sorted({finding.kind.value for finding in report.findings})
    about = ",".join(kinds) if kinds else f"{report.leaves} leaves"
    audit_log.record_if_there(activity, about)


@contextmanager
def _text(path: Path) -> Iterator[Iterator[str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield iter(file)
