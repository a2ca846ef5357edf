"""The Ads service over gRPC."""

from typing import Any

import grpc
from isthmus.ads.v1 import ads_pb2, ads_pb2_grpc

from public_edge.ads.decision import Asked, Decider, Features
from public_edge.grpc_origin import origin_of


class AdsService(ads_pb2_grpc.AdsServicer):
    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    async def Decide(
        self, request: ads_pb2.DecideRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> ads_pb2.DecideResponse:
        features = Features.of(dict(request.features))
        asked = Asked(request.slot, features, request.viewer, request.source_time_us)
        decision = await self._decider.decide(asked, origin_of(context))
        answer = ads_pb2.DecideResponse(impression_id=decision.impression_id, click_url=decision.click_url.decode())
        if (creative := decision.creative) is not None:
            answer.creative.campaign_id = creative.campaign_id
            answer.creative.creative_id = creative.creative_id
            answer.creative.title = creative.title
            answer.creative.image_url = creative.image_url
        return answer
