"""The tables at the end of a run."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from chaos.checkers.books import Books, Traffic
from chaos.checkers.expected import Expected, Month
from chaos.checkers.verdict import Check
from chaos.demo.summary import Summary

CAMPAIGNS_SHOWN = 8
FAILURES_SHOWN = 5
GOOD, BAD = "[green]✓[/]", "[red]✗[/]"


def show(console: Console, expected: Expected, books: Books, summary: Summary, reasons: Sequence[str]) -> None:
    console.print(_traffic("Slots, as landed in the warehouse", sorted(books.slots.items()), total=True))
    top = sorted(books.campaigns.items(), key=lambda entry: (-entry[1].net, -entry[1].impressions, entry[0]))
    console.print(_traffic(f"Campaigns with the most clicks, {CAMPAIGNS_SHOWN} of {len(top)}", top[:CAMPAIGNS_SHOWN]))
    console.print(_months(expected, books))
    console.print(_figures(summary))
    console.print(_checks(summary.checks))
    for reason in reasons[:FAILURES_SHOWN]:
        console.print(reason, style="red", markup=False, highlight=False)
    verdict = "[bold green]Every check held.[/]" if summary.ok else "[bold red]Not every check held.[/]"
    console.print(verdict)


def _traffic(title: str, rows: Sequence[tuple[str, Traffic]], total: bool = False) -> Table:
    table = _table(title, "", "impressions", "clicks", "net clicks", "CTR")
    for name, traffic in rows:
        table.add_row(name, *_traffic_cells(traffic))
    if total:
        table.add_section()
        table.add_row("all", *_traffic_cells(sum((traffic for _, traffic in rows), Traffic())))
    return table


def _traffic_cells(traffic: Traffic) -> Iterable[str]:
    rate = traffic.click_through_rate
    return (
        f"{traffic.impressions:,}",
        f"{traffic.gross:,}",
        f"{traffic.net:,}",
        "" if rate is None else f"{rate:.3%}",
    )


def _months(expected: Expected, books: Books) -> Table:
    table = _table("Orders per month, as the books hold them", "", "orders", "amount", "captured", "as in the file")
    for month in sorted(expected.months.keys() | books.orders.keys() | books.captures.keys()):
        wanted, ordered, captured = (m.get(month, Month()) for m in (expected.months, books.orders, books.captures))
        same = GOOD if wanted == ordered == captured else BAD
        table.add_row(month, f"{ordered.count:,}", _money(ordered.minor), _money(captured.minor), same)
    ordered, captured = (sum(months.values(), Month()) for months in (books.orders, books.captures))
    table.add_section()
    same = GOOD if expected.orders == ordered == captured else BAD
    table.add_row("all", f"{ordered.count:,}", _money(ordered.minor), _money(captured.minor), same)
    return table


def _figures(summary: Summary) -> Table:
    table = _table("The run", "", "")
    ms = "{:,.1f} ms, {:,.1f} ms"
    rows = {
        "public requests, failed": f"{summary.public_requests:,}, {summary.public_failures:,}",
        "ad answered in, p50 and p99": ms.format(summary.public_latency_ms_p50, summary.public_latency_ms_p99),
        "orders, payments and registrations, failed": f"{summary.sensitive_requests:,}, {summary.sensitive_failures:,}",
        "edge nodes, killed": f"{summary.edge_nodes}, {summary.edge_nodes_killed}",
        "without Kafka": f"{summary.kafka_outage_seconds:.1f} s",
        "click to queryable row, p50 and p99": ms.format(
            summary.click_to_warehouse_ms_p50, summary.click_to_warehouse_ms_p99
        ),
        "events lost, duplicated": f"{summary.events_lost:,}, {summary.events_duplicated:,}",
        "repeats that the bridge dropped": f"{summary.event_repeats_dropped:,}",
        "memory of all processes": f"{summary.rss_mib:,.0f} MiB",
        "duration": f"{summary.duration_seconds:,.1f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _checks(checks: Sequence[Check]) -> Table:
    """One line for each name when all of it holds, else one for each that does not."""
    table = _table("Checks", "", "expected", "observed", "")
    for name, group in groupby(checks, key=lambda check: check.name):
        members = list(group)
        wrong = [check for check in members if not check.ok]
        if wrong:
            for check in wrong:
                table.add_row(f"{name} {check.of}".strip(), _value(check.expected), _value(check.observed), BAD)
        elif len(members) == 1:
            table.add_row(name, _value(members[0].expected), _value(members[0].observed), GOOD)
        else:
            table.add_row(name, f"{len(members)} values", "all equal", GOOD)
    return table


def _value(value: object) -> str:
    if isinstance(value, Month):
        return f"{value.count:,} for {_money(value.minor)}"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _money(minor: int) -> str:
    sign = "-" if minor < 0 else ""
    return f"{sign}{abs(minor) // 100:,}.{abs(minor) % 100:02}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
