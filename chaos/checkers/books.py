"""The mesh's own books at one moment, read as the operator: warehouse, orders, ledger, members."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

import grpc
from isthmus.members.v1.members_pb2 import CountMembersRequest
from isthmus.members.v1.members_pb2_grpc import MembersStub
from isthmus.money.v1.money_pb2 import Money
from isthmus.orders.v1.orders_pb2 import SummarizeOrdersRequest
from isthmus.orders.v1.orders_pb2_grpc import OrdersStub
from isthmus.payments.v1.payments_pb2 import GetTrialBalanceRequest, SummarizeCapturesRequest
from isthmus.payments.v1.payments_pb2_grpc import LedgerStub
from isthmus.warehouse.v1.warehouse_pb2 import (
    ReportFreshnessRequest,
    ReportLandingRequest,
    ReportTrafficRequest,
)
from isthmus.warehouse.v1.warehouse_pb2 import (
    Traffic as TrafficReport,
)
from isthmus.warehouse.v1.warehouse_pb2_grpc import WarehouseStub

from chaos.checkers.expected import Month
from chaos.load.transactions import CURRENCY

DEADLINE_S = 25.0


@dataclass(frozen=True)
class Traffic:
    """Landed rows of one slot or campaign. `clicks` counts the first of each impression, `net` without crawlers."""

    impressions: int = 0
    gross: int = 0
    clicks: int = 0
    net: int = 0
    replayed: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Traffic)))

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Traffic)))

    @property
    def click_through_rate(self) -> float | None:
        return self.net / self.impressions if self.impressions else None


@dataclass(frozen=True)
class Books:
    slots: Mapping[str, Traffic]
    campaigns: Mapping[str, Traffic]
    pages: int
    # Repeats of an event that the bridge saw and dropped, and records that it could not read.
    repeats: int
    dead_letters: int
    # Rows whose event stands twice: nothing may.
    doubled_rows: int
    orders: Mapping[str, Month]
    captures: Mapping[str, Month]
    ledger_sums: Mapping[str, int]
    members: int

    def since(self, before: "Books") -> "Books":
        """What was added after `before`. What must be zero at all times stays as it is."""
        return Books(
            {key: value - before.slots.get(key, Traffic()) for key, value in self.slots.items()},
            {key: value - before.campaigns.get(key, Traffic()) for key, value in self.campaigns.items()},
            self.pages - before.pages,
            self.repeats - before.repeats,
            self.dead_letters - before.dead_letters,
            self.doubled_rows,
            _added(self.orders, before.orders),
            _added(self.captures, before.captures),
            self.ledger_sums,
            self.members - before.members,
        )


@dataclass(frozen=True)
class Freshness:
    """From the click's acceptance at the edge to its queryable row, in milliseconds."""

    clicks: int
    p50_ms: float
    p99_ms: float


# A channel to a workload of the private zone, as the operator.
Channel = Callable[[str], grpc.aio.Channel]


async def read_books(channel: Channel) -> Books:
    """
    Raises:
        MeshError: a service did not answer within DEADLINE_S.
    """
    warehouse, ledger = WarehouseStub(channel("warehouse")), LedgerStub(channel("payments"))
    shop, people = OrdersStub(channel("orders")), MembersStub(channel("members"))
    traffic, landing, orders, balance, captures, members = await asyncio.gather(
        warehouse.ReportTraffic(ReportTrafficRequest(), timeout=DEADLINE_S, wait_for_ready=True),
        warehouse.ReportLanding(ReportLandingRequest(), timeout=DEADLINE_S, wait_for_ready=True),
        shop.SummarizeOrders(SummarizeOrdersRequest(), timeout=DEADLINE_S, wait_for_ready=True),
        ledger.GetTrialBalance(GetTrialBalanceRequest(), timeout=DEADLINE_S, wait_for_ready=True),
        ledger.SummarizeCaptures(SummarizeCapturesRequest(), timeout=DEADLINE_S, wait_for_ready=True),
        people.CountMembers(CountMembersRequest(), timeout=DEADLINE_S, wait_for_ready=True),
    )
    return Books(
        {report.key: _traffic(report) for report in traffic.slots},
        {report.key: _traffic(report) for report in traffic.campaigns},
        traffic.content_views,
        sum(partition.duplicates for partition in landing.partitions),
        sum(partition.dead_letters for partition in landing.partitions),
        landing.doubled_rows,
        _months((month.month, month.orders, month.amount) for month in orders.months),
        _months((month.month, month.captures, month.amount) for month in captures.months),
        _by_currency(balance.sums),
        members.members,
    )


async def read_freshness(channel: Channel, accepted_from_us: int) -> Freshness:
    request = ReportFreshnessRequest(accepted_from_us=accepted_from_us)
    report = await WarehouseStub(channel("warehouse")).ReportFreshness(request, timeout=DEADLINE_S, wait_for_ready=True)
    return Freshness(report.clicks, report.p50_ms, report.p99_ms)


async def read_until(
    channel: Channel, complete: Callable[[Books], bool], deadline_s: float, every_s: float = 0.5
) -> Books:
    """The first books that are complete, or the last ones before the deadline: the verdict is the checks' business."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline_s
    while True:
        books = await read_books(channel)
        if complete(books) or loop.time() > ends:
            return books
        await asyncio.sleep(every_s)


async def read_settled(
    channel: Channel,
    arrived: Callable[[Books], bool] | None = None,
    still_s: float = 2.0,
    deadline_s: float = 60.0,
) -> Books:
    """Books that did not change for `still_s`, or the last ones before the deadline.

    A run before this one may have left events in a spool; they must land before this one begins to count.
    arrived: whether what this run has sent so far is among them. None where it has sent nothing: books that are empty
    are settled then, since nobody has.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline_s
    books = await read_books(channel)
    if arrived is None and not books.slots:
        return books
    while loop.time() < ends:
        await asyncio.sleep(still_s)
        before, books = books, await read_books(channel)
        if books == before and (arrived is None or arrived(books)):
            break
    return books


def _traffic(report: TrafficReport) -> Traffic:
    return Traffic(report.impressions, report.gross_clicks, report.clicks, report.net_clicks, report.replayed_clicks)


def _months(reported: Iterable[tuple[str, int, Money]]) -> dict[str, Month]:
    """In the currency of the transaction files; what others buy in another one is not ours to judge."""
    return {month: Month(count, amount.minor) for month, count, amount in reported if amount.currency == CURRENCY}


def _added(after: Mapping[str, Month], before: Mapping[str, Month]) -> dict[str, Month]:
    added = {key: value - before.get(key, Month()) for key, value in after.items()}
    return {key: value for key, value in added.items() if value != Month()}


def _by_currency(sums: Iterable[Money]) -> dict[str, int]:
    return {money.currency: money.minor for money in sums}
