"""The warehouse over gRPC."""

from datetime import timedelta

import grpc
from isthmus.money.v1 import money_pb2
from isthmus.warehouse.v1 import warehouse_pb2 as pb
from isthmus.warehouse.v1 import warehouse_pb2_grpc

from mesh.errors import InvalidArgument
from private_core.warehouse.domain import Funnel, Reach, Traffic
from private_core.warehouse.store import WarehouseStore

# The end of the year 9999: what the database's and Python's times both hold.
_TIME_US_MAX = 253_402_300_799_999_999


class WarehouseService(warehouse_pb2_grpc.WarehouseServicer):
    def __init__(self, store: WarehouseStore) -> None:
        self._store = store

    async def ReportTraffic(
        self,
        request: pb.ReportTrafficRequest,
        context: grpc.aio.ServicerContext[pb.ReportTrafficRequest, pb.ReportTrafficResponse],
    ) -> pb.ReportTrafficResponse:
        report = await self._store.traffic()
        return pb.ReportTrafficResponse(
            total=_traffic(report.total),
            slots=map(_traffic, report.slots),
            campaigns=map(_traffic, report.campaigns),
            content_views=report.content_views,
        )

    async def ReportFunnel(
        self,
        request: pb.ReportFunnelRequest,
        context: grpc.aio.ServicerContext[pb.ReportFunnelRequest, pb.ReportFunnelResponse],
    ) -> pb.ReportFunnelResponse:
        report = await self._store.funnel(timedelta(seconds=request.window_s))
        return pb.ReportFunnelResponse(
            total=_funnel(report.total),
            slots=map(_funnel, report.slots),
            campaigns=map(_funnel, report.campaigns),
            orders_unattributed=report.orders_unattributed,
        )

    async def ReportCustomers(
        self,
        request: pb.ReportCustomersRequest,
        context: grpc.aio.ServicerContext[pb.ReportCustomersRequest, pb.ReportCustomersResponse],
    ) -> pb.ReportCustomersResponse:
        segments = [
            pb.CustomerSegment(
                recency_score=segment.recency,
                frequency_score=segment.frequency,
                monetary_score=segment.monetary,
                customers=segment.customers,
                purchases=segment.purchases,
                spent=money_pb2.Money(minor=segment.spent_minor, currency=segment.currency),
            )
            for segment in await self._store.customers()
        ]
        return pb.ReportCustomersResponse(segments=segments)

    async def ReportContent(
        self,
        request: pb.ReportContentRequest,
        context: grpc.aio.ServicerContext[pb.ReportContentRequest, pb.ReportContentResponse],
    ) -> pb.ReportContentResponse:
        total, items = await self._store.content()
        return pb.ReportContentResponse(total=_reach(total), items=map(_reach, items))

    async def ReportFreshness(
        self,
        request: pb.ReportFreshnessRequest,
        context: grpc.aio.ServicerContext[pb.ReportFreshnessRequest, pb.ReportFreshnessResponse],
    ) -> pb.ReportFreshnessResponse:
        begin, end = request.accepted_from_us, request.accepted_to_us
        if not (0 <= begin <= _TIME_US_MAX and 0 <= end <= _TIME_US_MAX):
            raise InvalidArgument("WINDOW_INVALID", "the window's bounds are microseconds since 1970, to the year 9999")
        freshness = await self._store.freshness(begin, end)
        return pb.ReportFreshnessResponse(
            clicks=freshness.clicks, p50_ms=freshness.p50_ms, p99_ms=freshness.p99_ms, max_ms=freshness.max_ms
        )

    async def ReportLanding(
        self,
        request: pb.ReportLandingRequest,
        context: grpc.aio.ServicerContext[pb.ReportLandingRequest, pb.ReportLandingResponse],
    ) -> pb.ReportLandingResponse:
        landings, doubled = await self._store.landing()
        partitions = [
            pb.PartitionLanding(
                topic=landing.topic,
                partition=landing.partition,
                next_offset=landing.next_offset,
                landed=landing.landed,
                duplicates=landing.duplicates,
                dead_letters=landing.dead_letters,
            )
            for landing in landings
        ]
        return pb.ReportLandingResponse(partitions=partitions, doubled_rows=doubled)


def _traffic(traffic: Traffic) -> pb.Traffic:
    return pb.Traffic(
        key=traffic.key,
        impressions=traffic.impressions,
        gross_clicks=traffic.gross_clicks,
        clicks=traffic.clicks,
        net_clicks=traffic.net_clicks,
        replayed_clicks=traffic.replayed_clicks,
        crawler_clicks=traffic.crawler_clicks,
        click_through_rate=traffic.click_through_rate,
    )


def _funnel(funnel: Funnel) -> pb.Funnel:
    return pb.Funnel(
        key=funnel.key,
        impressions=funnel.impressions,
        clicks=funnel.clicks,
        orders=funnel.orders,
        revenue=[money_pb2.Money(minor=minor, currency=name) for name, minor in funnel.revenue_minor.items()],
        click_rate=funnel.click_rate,
        order_rate=funnel.order_rate,
    )


def _reach(reach: Reach) -> pb.ContentReach:
    return pb.ContentReach(
        slug=reach.slug,
        delivered=reach.delivered,
        opened=reach.opened,
        shared=reach.shared,
        open_rate=reach.open_rate,
        share_rate=reach.share_rate,
    )
