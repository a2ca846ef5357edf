"""The audit log on a terminal: records, what a verification found, and what a report says."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from deploy.cli.output import console, print_json

if TYPE_CHECKING:
    from security.audit.findings import Report
    from security.audit.report import AccessReport


def show_report(report: "Report", as_json: bool) -> None:
    newest = report.newest
    if as_json:
        found: dict[str, Any] = {"ok": report.ok} | asdict(report)
        for name, mark in (("newest", newest), ("witnessed", report.witnessed)):
            found[name] = {"size": mark.size, "root": mark.root.hex()} if mark else None
        print_json(found)
        return
    out = console()
    for finding in report.findings:
        out.print(f"[red]{finding.kind.value}[/] {escape(finding.message)}", soft_wrap=True)
    if report.unnamed:
        out.print(f"[red]and {report.unnamed} more[/]")
    state = "[green]The log is what was signed[/]" if report.ok else "[red]The log is not what was signed[/]"
    signed = f"signed up to leaf {newest.size - 1}" if newest else "nothing signed"
    if report.witnessed:
        signed += f", cosigned up to leaf {report.witnessed.size - 1}"
    waiting = f", {report.pending} rows wait for their leaf" if report.pending else ""
    removed = f", {report.removed} of them removed by retention" if report.removed else ""
    counts = f"{report.rows} rows, {report.leaves} leaves{removed}, {report.checkpoints} checkpoints"
    out.print(f"{state}: {counts}, {signed}{waiting}")


def show_access(found: "AccessReport") -> None:
    out = console()
    sights = Table("who", "saw the data of", "by", "calls", box=None)
    for sight in found.sights:
        sights.add_row(escape(sight.who), escape(sight.about), sight.method.rsplit(".", 1)[-1], str(sight.calls))
    out.print(sights if found.sights else "Nobody saw personal data.")
    for burst in found.bursts:
        reasons = ", ".join(sorted(burst.reasons))
        out.print(f"[red]{escape(burst.who)} was refused {burst.denials} times in a burst: {escape(reasons)}[/]")
    rights = Table("workload", "may call", "allowed", "denied", "", box=None)
    for right in found.rights:
        state = "" if right.granted and right.allowed else "never used" if right.granted else "[red]not granted[/]"
        method = right.method.rsplit(".", 1)[-1]
        rights.add_row(right.workload, escape(method), str(right.allowed), str(right.denied), state)
    out.print(rights)
    out.print(f"{found.records} records")


def show(records: list[dict[str, Any]], as_json: bool, header: bool = True) -> None:
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
