"""The Clicks service over gRPC."""

from typing import Any

import grpc
from isthmus.clicks.v1 import clicks_pb2, clicks_pb2_grpc

from public_edge.clicks.following import Follower
from public_edge.grpc_origin import origin_of


class ClicksService(clicks_pb2_grpc.ClicksServicer):
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def Follow(
        self, request: clicks_pb2.FollowRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> clicks_pb2.FollowResponse:
        landing_url = await self._follower.follow(request.token, request.source_time_us, origin_of(context))
        return clicks_pb2.FollowResponse(landing_url=landing_url)
