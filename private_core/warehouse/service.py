"""The warehouse over gRPC."""

import grpc
from isthmus.warehouse.v1 import warehouse_pb2 as pb
from isthmus.warehouse.v1 import warehouse_pb2_grpc

from mesh.errors import InvalidArgument
from private_core.warehouse.domain import Traffic
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
